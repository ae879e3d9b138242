"""Arguments of the recipes export and serve."""

from dataclasses import dataclass

from drafter_trainer.cli.options import check_positive, option
from drafter_trainer.errors import InputError
from drafter_trainer.serving.client import ENGINES as SERVING
from drafter_trainer.serving.commands import PARTS

ENGINES = ["vllm", "sglang", "llamacpp"]
DTYPES = ["float32", "float16", "bfloat16"]


@dataclass
class ExportArguments:
    """Say which drafter is made ready for which engines."""

    drafter: str | None = option(None, "Hub id or folder of a published drafter (default: RUN_FOLDER/drafter)")
    export_folder: str | None = option(None, "Folder of the engines' files (default: RUN_FOLDER/export)")
    engines: list[str] = option(ENGINES, f"Which of {', '.join(ENGINES)}")
    draft_length: int | None = option(
        None, "Tokens that an engine drafts in one round (default: by the drafter's acceptance)"
    )
    gguf_dtype: str = option("float16", f"Of the weights in drafter.gguf: {', '.join(DTYPES)}")
    target_gguf: str | None = option(
        None, "The target's GGUF file: its vocabulary is compared with the drafter's as llama.cpp does"
    )
    converter: str | None = option(
        None, "llama.cpp's convert_hf_to_gguf.py, for drafters that are not written without it"
    )

    def __post_init__(self) -> None:
        if unknown := [engine for engine in self.engines if engine not in ENGINES]:
            raise InputError(f"engines may name {', '.join(ENGINES)}, got {', '.join(unknown)}")
        if self.gguf_dtype not in DTYPES:
            raise InputError(f"gguf_dtype must be one of {', '.join(DTYPES)}, got {self.gguf_dtype}")
        check_positive(self, "draft_length")


@dataclass
class ServingArguments:
    """Say which engine serves a target with its drafter."""

    target: str | None = option(None, "Hub id or folder of the target; for llamacpp its GGUF file")
    drafter: str | None = option(None, "Hub id or folder of the published drafter")
    engine: str = option("vllm", f"One of {', '.join(SERVING)}")
    part: str = option("whole", f"What drafts in vLLM: one of {', '.join(PARTS)}; llamacpp drafts with the network")
    draft_length: int | None = option(None, "Tokens drafted in one round at most (default: by tuning and acceptance)")
    drafter_gguf: str | None = option(None, "For llamacpp the drafter.gguf that recipes/export.py wrote")
    port: int = option(8000, "Port of the server on this machine")
    engine_python: str | None = option(
        None, "Interpreter of the environment with vLLM or xllamacpp (default: this one; llama-server)"
    )
    engine_options: str = option("", "More words for the engine, as --engine_options='--max-num-seqs 16 --seed 1'")

    def __post_init__(self) -> None:
        if not self.target or not self.drafter:
            raise InputError("name --target and --drafter")
        for name, known in (("engine", SERVING), ("part", PARTS)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)}")
        check_positive(self, "draft_length", "port")
