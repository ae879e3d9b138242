"""Options of publishing a drafter or its rows."""

from dataclasses import dataclass

from drafter_trainer.cli.options import Options, option, parameter
from drafter_trainer.drafters.compact import FORMATS
from drafter_trainer.errors import InputError
from drafter_trainer.hub.publishing import HUB, Publishing
from drafter_trainer.pipeline.publish import publish

ROWS = "rows"  # as format: the rows of RUN_FOLDER/distill
_ADAPTER = "adapter"


@dataclass
class PublishingArguments(Options):
    """The destination and the form of a drafter."""

    _argument_group_name = "publishing"

    to: str = option(
        HUB,
        "Destination: hub for your own repository with the name of the drafter; hub:REPOSITORY, hub:@BRANCH or "
        "hub:REPOSITORY@BRANCH for another repository or branch; or a folder",
    )
    tag: str | None = parameter(publish, "tag")
    overwrite: bool = parameter(publish, "overwrite")
    dry_run: bool = parameter(publish, "dry_run")
    format: str = option(
        "stock",
        "stock, a model that every engine loads; compact, without the target's own weights, in int8; compact-int4; "
        "adapter:BASE, only the LoRA adapter over a published drafter; or rows, the rows of RUN_FOLDER/distill",
    )
    sources: list[str] = option(
        [], "Draft sources: lookup, ngram, network (default: all). Without network no weights are published"
    )
    license: str | None = parameter(publish, "license")

    def __post_init__(self) -> None:
        self.publishing()

    def publishing(self) -> Publishing:
        """Return the checked values."""
        values, (place, _, rest) = vars(self), self.to.partition(":")
        if place == HUB:
            repository, _, branch = rest.partition("@")
            values = values | {"to": HUB, "repo_id": repository or None, "revision": branch or None}
        kind, _, base = self.format.partition(":")
        if kind == _ADAPTER and base:
            values = values | {"format": "stock", "adapter_of": base}
        elif self.format == ROWS:
            values = values | {"format": "stock"}
        elif self.format not in FORMATS:
            known = ", ".join([*FORMATS, f"{_ADAPTER}:BASE", ROWS])
            raise InputError(f"format must be one of {known}, got {self.format}")
        return Publishing(**values)
