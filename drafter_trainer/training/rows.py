"""Self-distilled rows as a dataset, for training."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, concatenate_datasets

from drafter_trainer.distillation.store import RowStore, count_bare
from drafter_trainer.errors import InputError
from drafter_trainer.targets import Target

_ROWS_AT_ONCE = 10_000
_TOPK = ("topk_ids", "topk_logprobs")
_COLUMNS = ("prompt_ids", "response_ids", *_TOPK)
SCORE_THEM = (
    "let the target score them, with the same distill.py command and --teacher_forcing true, which keeps the answers; "
    "or train with --loss_type cross_entropy, which needs none"
)


def load_split(folders: Sequence[Path], split: str, target: Target, topk: bool | None) -> Dataset:
    """Load the rows of one split of several distillations.

    Args:
        folders (`Sequence[Path]`): Each with a folder of shards for each split.
        split (`str`): "train" or "validation".
        target, topk: As for `load_rows`; where some rows of any folder have none, none are loaded.
    """
    places = [folder / split for folder in folders]
    if topk is None:
        topk = not any(map(count_bare, itertools.chain.from_iterable(RowStore(place).shards() for place in places)))
    return concatenate_datasets([load_rows(place, target, topk) for place in places])


def load_rows(folder: Path, target: Target, topk: bool = True) -> Dataset:
    """Load the rows of one split.

    Args:
        folder (`Path`): A folder of shards.
        target (`Target`): The target that must have answered them.
        topk (`bool`, *optional*, defaults to `True`): Whether the target's log-probabilities are loaded.
    Returns:
        `Dataset`, memory-mapped, in the order of the shards, with the `length` of prompt and answer together, by which
        a Trainer groups rows.
    Raises:
        DamagedStoreError: If a shard is truncated or repeats rows.
        InputError: If there are none, another target answered, or some lack the log-probabilities.
    """
    store = RowStore(folder)
    store.keys()  # reads every shard: none is truncated or repeated
    if not store.shards():
        raise InputError(f"{folder} holds no rows: run distill.py first")
    check_target(store, target)
    if topk and (bare := sum(map(count_bare, store.shards()))):
        raise InputError(f"{bare} rows in {folder} have no log-probabilities: {SCORE_THEM}")
    columns = [name for name in _COLUMNS if topk or name not in _TOPK]
    rows = Dataset.from_parquet([str(shard) for shard in store.shards()], columns=columns)
    # Of the shards, which are read and let go: the dataset's own columns lie scattered over its file, and all the
    # pages that are touched would count as this process's memory.
    lengths = [_lengths(table) for table in store.tables(["prompt_ids", "response_ids"])]
    return rows.add_column("length", np.concatenate(lengths))


def has_topk(rows: Dataset | Sequence[dict[str, Any]] | dict[str, Dataset]) -> bool:
    """Tell whether all rows, or all rows of several datasets by name, have the target's log-probabilities."""
    if isinstance(rows, dict):
        return all(map(has_topk, rows.values()))
    name = _TOPK[-1]
    if isinstance(rows, Dataset):
        return name in rows.column_names and not rows.data.column(name).null_count
    return all(row.get(name) is not None for row in rows)


def count_response_tokens(rows: Dataset) -> int:
    """Count the tokens of all answers."""
    return sum(
        pc.sum(pc.list_value_length(table["response_ids"])).as_py()
        for table in rows.with_format("arrow").iter(_ROWS_AT_ONCE)
    )


def _lengths(table: pa.Table) -> np.ndarray:
    prompts, responses = (pc.list_value_length(table[name]).to_numpy() for name in ("prompt_ids", "response_ids"))
    return prompts + responses


def check_target(store: RowStore, target: Target) -> None:
    """Refuse answers of another target; under another name the same revision is the same target.

    Raises:
        DamagedStoreError: If a shard is damaged.
        InputError: If another target, or another revision of it, gave some of them.
    """
    for table in store.tables(["target", "target_revision"]):
        for name, revision in set(zip(table["target"].to_pylist(), table["target_revision"].to_pylist())):
            if revision != target.revision:
                raise InputError(
                    f"{store.folder} holds answers of {name}@{revision}, the target is {target.identity}: a drafter "
                    "learns from its own target's answers alone, so distil again or name that target"
                )
