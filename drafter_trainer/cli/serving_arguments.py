"""Options of the steps export and serve."""

from drafter_trainer.cli.options import option, options, parameters
from drafter_trainer.errors import InputError
from drafter_trainer.hub.export.engines import ENGINES, export_drafter
from drafter_trainer.serving.commands import NETWORK, WHOLE
from drafter_trainer.serving.engines import serve

_EXPORT = {
    "drafter": option(None, "Hub id or folder of a published drafter (default: RUN_FOLDER/drafter)", str | None),
    "output_dir": option(None, "Folder of the engines' files (default: RUN_FOLDER/export)", str | None),
    "engine": option([*ENGINES], f"Engines, of {', '.join(ENGINES)}"),
    **parameters(export_drafter, "draft_length", "target_gguf"),
}
ExportArguments = options("export", _EXPORT)

_SERVING = {
    "target_model": option(
        None, "Hub id or folder of the target; for llamacpp its GGUF file", str | None, aliases=["--target"]
    ),
    "drafter": option(
        None, "Hub id or folder of the published drafter; for llamacpp the folder of its export", str | None
    ),
    **parameters(serve, "engine"),
    "sources": option([], "In vLLM: network to draft with the network alone (default: all that the drafter has)"),
    **parameters(serve, "draft_length"),
    "engine_python": option(
        None, "Python of the environment with vLLM or xllamacpp (default: this one, or llama-server)", str | None
    ),
}


class ServingArguments(options("server", _SERVING)):
    """Which engine serves a target with its drafter."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.target_model or not self.drafter:
            raise InputError("name --target and --drafter")
        if self.sources not in ([], [NETWORK]):
            raise InputError(f"an engine drafts with all sources or with the {NETWORK}, got {' '.join(self.sources)}")

    @property
    def part(self) -> str:
        """What drafts, as `serve` calls it."""
        return NETWORK if self.sources else WHOLE
