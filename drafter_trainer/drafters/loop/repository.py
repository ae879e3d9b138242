"""Build the loop from what a drafter's repository carries."""

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
from .families import reason_against
from .graph import GraphedNetwork
from .network import LeanNetwork
from .networkless import MODEL_TYPE
from .settings import LoopSettings
from .sources import NgramTable
from .stock import StockNetwork

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
    """Build the loop of a loaded drafter.

    Args:
        find (callable): From a file's name to its path in the repository, `None` where it has no such file.
        trained (`int`, *optional*): Ids from which on the network was padded to the target's size, and drafts none.
        follow_clock (`bool`, *optional*, defaults to `True`): Whether greedy drafting learns costs from the clock.
        load_tokenizer (callable, *optional*): Returns the target's tokenizer; see `DraftingLoop`.
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
    draft_ids = _whole(VOCABULARY, files, find, lambda path: read_vocabulary(path, vocabulary))
    if draft_ids is None and trained is not None and trained < vocabulary:
        draft_ids = torch.arange(trained)
    table: NgramTable | None = _whole(TABLE, files, find, lambda path: NgramTable.read(path, vocabulary, sha256))
    if table is not None and table.orders[0] > settings.ngram_orders:
        raise ValueError(
            f"{TABLE} has order {table.orders[0]}, {path} tells how far to trust orders up to "
            f"{settings.ngram_orders}: tune and publish the drafter again"
        )
    network = build_network(model, draft_ids, settings.int8)
    clock = time.perf_counter if follow_clock else None
    return DraftingLoop(network, table, settings, model.device, vocabulary, clock, load_tokenizer)


def build_network(model, draft_ids: torch.Tensor | None, int8: bool) -> LeanNetwork | StockNetwork | None:
    """Run the drafter lean, or through its stock modules with a warning that says why; `None` where it has none.

    Args:
        draft_ids (`torch.Tensor` of shape `(draft vocabulary,)`, *optional*): Ids that it drafts; all if left out.
        int8 (`bool`): Multiply with int8 weights, on a CPU alone.
    """
    if model.config.model_type == MODEL_TYPE:  # not by its class, of which remote code makes another one
        return None
    reason = reason_against(model)
    if reason is not None:
        warnings.warn(f"{model.name_or_path} drafts through its stock modules: {reason}", stacklevel=2)
        return StockNetwork(model, draft_ids)
    if model.device.type == "cuda":
        return GraphedNetwork(model, draft_ids)
    return LeanNetwork(model, draft_ids, int8=int8 and model.device.type == "cpu")


def read_vocabulary(path: Path, vocabulary: int) -> torch.Tensor:
    """Read the ids of a draft vocabulary.

    Returns:
        `torch.Tensor` of shape `(draft vocabulary,)`, int64, ascending.
    Raises:
        ValueError: If they are not ascending ids of the target's vocabulary.
        SafetensorError: If the file is damaged.
    """
    with safe_open(path, framework="pt") as file:
        ids = file.get_tensor("ids").long()
    if ids.ndim != 1 or len(ids) == 0 or bool((ids.diff() <= 0).any()) or ids[0] < 0 or ids[-1] >= vocabulary:
        raise ValueError(f"{path} holds no ascending ids below {vocabulary}: it is of another tokenizer")
    return ids


def _whole(name: str, files: dict[str, str], find: Callable[[str], Path | None], read: Callable):
    """Read a file that the drafter can do without, unless it is damaged."""
    if name not in files:  # what else lies in the repository is of an earlier drafter
        return None
    path = find(name)
    try:
        if path is None:
            raise FileNotFoundError("it is not there")
        if files[name] != hashlib.sha256(path.read_bytes()).hexdigest():
            raise SafetensorError(f"its SHA-256 is not the {files[name]} of {DESCRIPTION}")
        return read(path)
    except (SafetensorError, OSError) as error:
        warnings.warn(
            f"{path or name} is damaged ({error}), drafting goes on without it: download it again", stacklevel=3
        )
        return None
