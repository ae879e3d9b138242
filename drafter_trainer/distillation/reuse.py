"""Reuse of a distillation with other settings: rows are matched by key."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drafter_trainer.distillation.requests import Requests
from drafter_trainer.distillation.store import SPLITS, KeySet, RowStore, count_unscored
from drafter_trainer.runs import Step


def is_whole(folder: Path, facts: Mapping[str, Any]) -> bool:
    """Return whether all rows of a finished step exist: a damaged shard may have been deleted."""
    rows = {split: sum(table.num_rows for table in RowStore(folder / split).tables(["seed"])) for split in SPLITS}
    return all(split in facts and rows[split] == facts[split]["rows"] for split in SPLITS)


def reuse_rows(step: Step, requests: Mapping[str, tuple[Requests, RowStore]], scored: bool) -> bool:
    """Reuse a finished step of other settings if it has all requested rows.

    Args:
        scored (`bool`): Whether all rows need log-probabilities.
    Returns:
        `bool`: Whether nothing is missing.
    Raises:
        InputError: If the folder has rows that are not requested now.
    """
    unrequested = missing = 0
    for own, store in requests.values():
        keys, done = KeySet(request.key for request in own), store.keys()
        stored = (key for table in store.tables(["key"]) for key in table["key"].to_pylist())
        unrequested += sum(key not in keys for key in stored)
        missing += sum(key not in done for key in keys)
        missing += sum(map(count_unscored, store.shards())) if scored else 0
    if unrequested:
        step.refuse_difference(f", and {unrequested} of its rows are not requested now")
    return not missing and step.earlier["finished"] and step.reuse()
