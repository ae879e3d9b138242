"""Self-distilled rows as a dataset, for training."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from drafter_trainer.distillation.store import RowStore
from drafter_trainer.errors import InputError
from drafter_trainer.targets import Target

_ROWS_AT_ONCE = 10_000
_COLUMNS = ["prompt_ids", "response_ids", "topk_ids", "topk_logprobs"]


def load_rows(folder: Path, target: Target) -> Dataset:
    """Load the rows of one split.

    Args:
        folder (`Path`): A folder of shards.
        target (`Target`): The target that must have answered them.
    Returns:
        `Dataset`, memory-mapped, in the order of the shards, with the `length` of prompt and answer together, by which
        a Trainer groups rows.
    Raises:
        DamagedStoreError: If a shard is truncated or repeats rows.
        InputError: If there are none, or another target answered.
    """
    store = RowStore(folder)
    store.keys()  # reads every shard: none is truncated or repeated
    if not store.shards():
        raise InputError(f"{folder} holds no rows: run distill.py first")
    check_target(store, target)
    rows = Dataset.from_parquet([str(shard) for shard in store.shards()], columns=_COLUMNS)
    # Of the shards, which are read and let go: the dataset's own columns lie scattered over its file, and all the
    # pages that are touched would count as this process's memory.
    lengths = [_lengths(table) for table in store.tables(["prompt_ids", "response_ids"])]
    return rows.add_column("length", np.concatenate(lengths))


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
    """Refuse answers of another target.

    Raises:
        DamagedStoreError: If a shard is damaged.
        InputError: If another target, or another revision of it, gave some of them.
    """
    for table in store.tables(["target", "target_revision"]):
        for name, revision in set(zip(table["target"].to_pylist(), table["target_revision"].to_pylist())):
            if (name, revision) != (target.name, target.revision):
                raise InputError(
                    f"{store.folder} holds answers of {name}@{revision}, the target is {target.identity}: a drafter "
                    "learns from its own target's answers alone, so distil again or name that target"
                )
