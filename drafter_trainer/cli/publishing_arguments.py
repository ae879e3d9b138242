"""Options of publishing a drafter or its rows."""

from drafter_trainer.cli.options import option, options, parameters
from drafter_trainer.hub.publishing import Publishing
from drafter_trainer.pipeline.publish import publish

_PUBLISHING = {
    **parameters(publish, "to", "repo_id", "revision", "tag", "private", "overwrite", "dry_run", "format"),
    "sources": option(
        [], "Draft sources, of lookup, ngram and network; without network no weights are published (default: all)"
    ),
    **parameters(publish, "license", "check_generation", "adapter_of"),
    "card_folder": option(
        None,
        "Folder of cards: the card and its inputs are also written to <card_folder>/<drafter_name>",
        str | None,
    ),
}


class PublishingArguments(
    options("publishing", _PUBLISHING, rare={"revision", "check_generation", "adapter_of", "card_folder"})
):
    """Where a drafter is published to, and in which form."""

    def __post_init__(self) -> None:
        self.publishing()

    def publishing(self) -> Publishing:
        """Return the checked values."""
        return Publishing(**vars(self))


_PUBLISHED = {"dataset": option(False, "Publish the rows of RUN_FOLDER/distill in place of the drafter")}
PublishedArguments = options("publishing", _PUBLISHED)
