"""Arguments of the recipe export."""

from dataclasses import dataclass, field

from drafter_trainer.errors import InputError

ENGINES = ("vllm", "sglang", "llamacpp")
DTYPES = ("float32", "float16", "bfloat16")


@dataclass
class ExportArguments:
    """Say which drafter is made ready for which engines."""

    drafter: str | None = field(
        default=None, metadata={"help": "Hub id or folder of a published drafter (default: RUN_FOLDER/drafter)"}
    )
    export_folder: str | None = field(
        default=None, metadata={"help": "Folder of the engines' files (default: RUN_FOLDER/export)"}
    )
    engines: list[str] = field(
        default_factory=lambda: list(ENGINES), metadata={"help": f"Which of {', '.join(ENGINES)}"}
    )
    draft_length: int | None = field(
        default=None, metadata={"help": "Tokens that an engine drafts in one round (default: the drafter's own)"}
    )
    gguf_dtype: str = field(
        default="float16", metadata={"help": f"Of the weights in drafter.gguf: {', '.join(DTYPES)}"}
    )
    target_gguf: str | None = field(
        default=None, metadata={"help": "The target's GGUF file: its vocabulary is compared as llama.cpp does"}
    )
    converter: str | None = field(
        default=None,
        metadata={"help": "llama.cpp's convert_hf_to_gguf.py, for drafters that are not written without it"},
    )

    def __post_init__(self) -> None:
        if unknown := [engine for engine in self.engines if engine not in ENGINES]:
            raise InputError(f"engines may name {', '.join(ENGINES)}, got {', '.join(unknown)}")
        if self.gguf_dtype not in DTYPES:
            raise InputError(f"gguf_dtype must be one of {', '.join(DTYPES)}, got {self.gguf_dtype}")
        if self.draft_length is not None and self.draft_length < 1:
            raise InputError(f"draft_length must be at least 1, got {self.draft_length}")
