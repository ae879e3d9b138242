"""Make a published drafter ready for other engines."""

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel

from drafter_trainer.hub.export import engines as writers
from drafter_trainer.pipeline.targets import target_of
from drafter_trainer.targets import Target


def export_drafter(
    drafter: str | Path,
    target: str | Target | PreTrainedModel | None = None,
    *,
    output_dir: str | Path,
    engines: Sequence[str] = writers.ENGINES,
    draft_length: int | None = None,
    gguf_dtype: str = "float16",
    target_gguf: str | Path | None = None,
    converter: str | Path | None = None,
) -> list[str]:
    """Write what vLLM, SGLang and llama.cpp need of a drafter, and check what each of them asks for.

    Args:
        drafter (`str` or `Path`): Folder or Hub id of a published drafter.
        target (`str`, `Target` or `PreTrainedModel`, *optional*): The target; the one that the drafter names, on the
            Hub, if left out.
        output_dir (`str` or `Path`): Folder of the engines' files, with a README.
        engines (`Sequence[str]`, *optional*): Of "vllm", "sglang" and "llamacpp"; all of them by default.
        draft_length (`int`, *optional*): Tokens that an engine drafts in one round; by the drafter's acceptance if
            left out.
        gguf_dtype (`str`, *optional*, defaults to `"float16"`): Of the weights in `drafter.gguf`.
        target_gguf (`str` or `Path`, *optional*): The target's GGUF file, whose vocabulary is compared.
        converter (`str` or `Path`, *optional*): llama.cpp's `convert_hf_to_gguf.py`, for drafters that are not written
            without it.
    Returns:
        `list[str]`: What was checked, a sentence each.
    Raises:
        InputError: If drafter and target are not what an engine asks for.
        IncompatibleTokenizerError: If their tokenizers differ.
    """
    return writers.export_drafter(
        str(drafter),
        target_of(drafter, target),
        Path(output_dir),
        engines,
        draft_length,
        gguf_dtype,
        Path(target_gguf) if target_gguf else None,
        Path(converter) if converter else None,
    )
