"""Where and in which form a drafter is published."""

from collections.abc import Sequence
from dataclasses import dataclass

from drafter_trainer.drafters.compact import FORMATS
from drafter_trainer.drafters.loop.sources import NETWORK, NGRAM, SOURCES
from drafter_trainer.errors import InputError

HUB = "hub"
MAIN = "main"


@dataclass(frozen=True)
class Publishing:
    """Where a drafter is published to, and in which form.

    Args:
        sources (`list[str]`): Draft with these alone; all that were tuned if empty.
        card_folder (`str`, *optional*): Folder of cards, in which the card is kept too.
        repo_type (`str`): Of the repository, "model" or "dataset".
        to, repo_id, ...: As for `drafter_trainer.publish`.
    """

    to: str = HUB
    repo_id: str | None = None
    revision: str | None = None
    tag: str | None = None
    private: bool = False
    overwrite: bool = False
    dry_run: bool = False
    check_generation: bool = True
    collection: bool = True
    adapter_of: str | None = None
    sources: Sequence[str] = ()
    format: str = "stock"
    license: str | None = None
    card_folder: str | None = None
    repo_type: str = "model"

    def __post_init__(self) -> None:
        if self.to.startswith(f"{HUB}:"):
            raise InputError(
                f"to is {HUB!r} or a folder, got {self.to}: give repository and branch as repo_id and revision"
            )
        if self.to != HUB and (self.revision or self.tag):
            raise InputError(f"revision and tag are the Hub's: leave them out to publish to {self.to}")
        if unknown := [source for source in self.sources if source not in SOURCES]:
            raise InputError(f"sources may name {', '.join(SOURCES)}, got {', '.join(unknown)}")
        if self.format not in FORMATS:
            raise InputError(f"format must be one of {', '.join(FORMATS)}, got {self.format}")
        if FORMATS[self.format] and (self.adapter_of or not self.network):
            raise InputError("only a network of its own has a compact format: leave adapter_of and sources out")
        if self.adapter_of and not self.network:
            raise InputError("an adapter is a network's: give adapter_of, or sources without network")
        if not self.network and NGRAM not in self.sources:
            raise InputError(
                "lookup alone needs no drafter: choose the sources lookup and ngram, or "
                "generate(prompt_lookup_num_tokens=...)"
            )

    def __str__(self) -> str:
        kind = "" if self.repo_type == "model" else f"{self.repo_type}s/"
        return f"{kind}{self.repo_id}" + ("" if self.branch == MAIN else f" at {self.branch}")

    @property
    def branch(self) -> str:
        """The branch on the Hub; created where there is none, without the files of others."""
        return self.revision or MAIN

    @property
    def network(self) -> bool:
        """Whether the drafter has a network."""
        return not self.sources or NETWORK in self.sources
