"""Build the drafting loop from the files of a drafter's repository."""

import hashlib
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from .calls import TokenizerLoader
from .drafting import DraftingLoop
from .network_kinds import build_network
from .settings import LoopSettings
from .sources import NgramTable

DESCRIPTION = "drafter.json"
VOCABULARY = "draft_vocabulary.safetensors"
TABLE = "ngram.safetensors"


def build_loop(
    model,
    find: Callable[[str], Path | None],
    trained: int | None = None,
    follow_clock: bool = True,
    load_tokenizer: TokenizerLoader = lambda: None,
) -> DraftingLoop:
    """Build the loop of a loaded drafter from the files that `find` returns by name, `None` if there is no such file.

    `trained` is the size of the vocabulary before it was padded to the target's.

    Raises:
        ValueError: If settings, draft vocabulary or table do not fit the drafter.
    """
    path = find(DESCRIPTION)
    if path is None:
        raise ValueError(f"{model.name_or_path} has no {DESCRIPTION}: publish the drafter again")
    description = json.loads(path.read_text(encoding="utf-8"))
    settings = LoopSettings.from_dict(description["loop"], str(path))
    vocabulary = model.config.vocab_size
    files, sha256 = description["files"], description["tokenizer_sha256"]
    draft_ids = _read_undamaged(VOCABULARY, files, find, lambda path: read_vocabulary(path, vocabulary))
    if draft_ids is None and trained is not None and trained < vocabulary:
        draft_ids = torch.arange(trained)
    table = _read_undamaged(TABLE, files, find, lambda path: NgramTable.read(path, vocabulary, sha256))
    if table is not None and table.orders[0] > settings.ngram_orders:
        raise ValueError(
            f"{TABLE} has order {table.orders[0]}, the calibration in {path} has orders up to "
            f"{settings.ngram_orders}: tune and publish the drafter again"
        )
    network = build_network(model, draft_ids, settings.int8)
    clock = time.perf_counter if follow_clock else None
    return DraftingLoop(network, table, settings, model.device, vocabulary, clock, load_tokenizer)


def read_vocabulary(path: Path, vocabulary: int) -> torch.Tensor:
    """Read the ids of a draft vocabulary, int64 and ascending.

    Raises:
        ValueError: If they are not ascending ids of the target's vocabulary.
        SafetensorError: If the file is damaged.
    """
    with safe_open(path, framework="pt") as file:
        ids = file.get_tensor("ids").long()
    if ids.ndim != 1 or len(ids) == 0 or bool((ids.diff() <= 0).any()) or ids[0] < 0 or ids[-1] >= vocabulary:
        raise ValueError(f"{path} has no ascending ids below {vocabulary}: it is for another tokenizer")
    return ids


def _read_undamaged(name: str, files: dict[str, str], find: Callable[[str], Path | None], read: Callable):
    """Read an optional file; return `None`, with a warning, if it is damaged."""
    if name not in files:  # a file of this name would be one of an earlier drafter
        return None
    path = find(name)
    try:
        if path is None:
            raise FileNotFoundError("it is missing")
        if files[name] != hashlib.sha256(path.read_bytes()).hexdigest():
            raise SafetensorError(f"its SHA-256 is not the {files[name]} of {DESCRIPTION}")
        return read(path)
    except (SafetensorError, OSError) as error:
        message = f"{path or name} is damaged ({error}), and drafting continues without it: download it again"
        warnings.warn(message, stacklevel=3)
        return None
