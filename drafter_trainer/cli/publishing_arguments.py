"""Options of publishing a drafter or its rows."""

from dataclasses import dataclass
from typing import ClassVar

from drafter_trainer.cli.options import option
from drafter_trainer.hub.publishing import Publishing


@dataclass
class PublishingArguments:
    """Where a drafter is published to, and in which form; see `hub.publishing.Publishing`."""

    _argument_group_name: ClassVar[str] = "publishing"
    RARE: ClassVar = {"revision", "check_generation", "adapter_of", "card_folder"}

    to: str = option("hub", "hub (the one that HF_ENDPOINT and HF_TOKEN name), or a folder")
    repo_id: str | None = option(None, "Repository on the Hub (default: <you>/<drafter_name>)")
    revision: str | None = option(None, "Branch on the Hub, created where there is none (default: main)")
    tag: str | None = option(None, "Tag of the commit, such as v1, once the upload has been checked")
    private: bool = option(False, "Whether a new repository is private")
    overwrite: bool = option(False, "Whether another drafter or other rows are replaced, and an existing tag is moved")
    dry_run: bool = option(False, "Write everything but send nothing: list the files and their sizes")
    format: str = option(
        "stock",
        "stock: a model that every engine loads; compact: without embeddings, head and tokenizer, which load_drafter "
        "takes from the target, in int8; compact-int4: the same in int4",
    )
    sources: list[str] = option(
        [], "Draft sources, of lookup, ngram and network; without network no weights are published (default: all)"
    )
    license: str | None = option(None, "License identifier for the card (default: that of the target's card)")
    check_generation: bool = option(
        True, "Whether the target is loaded after an upload to generate with the downloaded drafter"
    )
    adapter_of: str | None = option(
        None, "After finetuning with lora_rank: published base drafter, over which the adapter alone is published"
    )
    card_folder: str | None = option(
        None, "Folder of cards: the card and its inputs are also written to <card_folder>/<drafter_name>"
    )

    def __post_init__(self) -> None:
        self.publishing()

    def publishing(self) -> Publishing:
        """Return the checked values."""
        return Publishing(**vars(self))


@dataclass
class PublishedArguments:
    """What of a run is published."""

    _argument_group_name: ClassVar[str] = "publishing"

    dataset: bool = option(False, "Publish the rows of RUN_FOLDER/distill in place of the drafter")
