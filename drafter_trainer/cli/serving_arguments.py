"""Options of the steps export and serve."""

from dataclasses import dataclass, field
from typing import ClassVar

from drafter_trainer.cli.options import check_one_of, check_positive, option
from drafter_trainer.errors import InputError
from drafter_trainer.hub.export.engines import ENGINES
from drafter_trainer.serving.client import ENGINES as SERVING
from drafter_trainer.serving.commands import PARTS


@dataclass
class ExportArguments:
    """Which drafter is made ready for which engines."""

    _argument_group_name: ClassVar[str] = "export"

    drafter: str | None = option(None, "Hub id or folder of a published drafter (default: RUN_FOLDER/drafter)")
    output_dir: str | None = option(None, "Folder of the engines' files (default: RUN_FOLDER/export)")
    engine: list[str] = option([*ENGINES], f"Engines, of {', '.join(ENGINES)}")
    draft_length: int | None = option(
        None, "Draft length of the engine, in tokens (default: by the drafter's acceptance)"
    )
    target_gguf: str | None = option(None, "The target's GGUF file, whose vocabulary is compared with the drafter's")


@dataclass
class ServingArguments:
    """Which engine serves a target with its drafter."""

    _argument_group_name: ClassVar[str] = "server"

    target_model: str | None = field(
        default=None,
        metadata={"help": "Hub id or folder of the target; for llamacpp its GGUF file", "aliases": ["--target"]},
    )
    drafter: str | None = option(None, "Hub id or folder of the published drafter")
    engine: str = option("vllm", f"One of {', '.join(SERVING)}")
    part: str = option(
        "whole", f"Part that drafts in vLLM: one of {', '.join(PARTS)}; llamacpp drafts with the network"
    )
    draft_length: int | None = option(None, "Maximum draft length, in tokens (default: by tuning and acceptance)")
    drafter_gguf: str | None = option(None, "With engine llamacpp: the drafter.gguf that export wrote")
    port: int = option(8000, "Port of the server on this machine")
    engine_python: str | None = option(
        None, "Interpreter of the environment with vLLM or xllamacpp (default: this one; llama-server)"
    )
    engine_options: str = option("", "Further options of the engine, as --engine_options='--max-num-seqs 16 --seed 1'")

    def __post_init__(self) -> None:
        if not self.target_model or not self.drafter:
            raise InputError("name --target and --drafter")
        check_one_of(self, "engine", SERVING)
        check_one_of(self, "part", PARTS)
        check_positive(self, "draft_length", "port")
