"""Options of publishing a drafter or its rows."""

from dataclasses import dataclass
from typing import Any

from drafter_trainer.cli.options import Options, arguments_of, option, parameter
from drafter_trainer.drafters.compact import FORMATS
from drafter_trainer.errors import InputError
from drafter_trainer.hub.destination import HUB, Destination
from drafter_trainer.pipeline.publish import check_form, publish

ROWS = "rows"  # as format: the rows of RUN_FOLDER/distill
_ADAPTER = "adapter"


@dataclass
class PublishingArguments(Options, group="publishing"):
    """The destination and the form of a drafter."""

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
    sources: list[str] = parameter(publish, "sources")
    license: str | None = parameter(publish, "license")

    def __post_init__(self) -> None:
        given = self.spelled_out()
        if given["format"] not in (*FORMATS, ROWS):
            known = ", ".join([*FORMATS, f"{_ADAPTER}:BASE", ROWS])
            raise InputError(f"format must be one of {known}, got {self.format}")
        check_form("stock" if given["format"] == ROWS else given["format"], self.sources, given.get("adapter_of"))
        self.destination()

    def spelled_out(self) -> dict[str, Any]:
        """Return the arguments of `publish`, including those in the short forms of `--to` and `--format`."""
        values, (kind, _, rest) = dict(vars(self)), self.to.partition(":")
        if kind == HUB:
            repository, _, branch = rest.partition("@")
            values |= {"to": HUB, "repo_id": repository or None, "revision": branch or None}
        kind, _, base = self.format.partition(":")
        if kind == _ADAPTER and base:
            values |= {"format": "stock", "adapter_of": base}
        return values

    def destination(self) -> Destination:
        """Return the destination."""
        return Destination(**arguments_of(Destination, self.spelled_out()))
