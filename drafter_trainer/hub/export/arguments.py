"""Arguments of the recipe export."""

from dataclasses import dataclass

from drafter_trainer.arguments import check_positive, option
from drafter_trainer.errors import InputError

ENGINES = ["vllm", "sglang", "llamacpp"]
DTYPES = ["float32", "float16", "bfloat16"]


@dataclass
class ExportArguments:
    """Say which drafter is made ready for which engines."""

    drafter: str | None = option(None, "Hub id or folder of a published drafter (default: RUN_FOLDER/drafter)")
    export_folder: str | None = option(None, "Folder of the engines' files (default: RUN_FOLDER/export)")
    engines: list[str] = option(ENGINES, f"Which of {', '.join(ENGINES)}")
    draft_length: int | None = option(None, "Tokens that an engine drafts in one round (default: the drafter's own)")
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
