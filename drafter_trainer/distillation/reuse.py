"""What may be taken over of a distillation that was made with other settings: rows are told by their keys alone."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drafter_trainer.distillation.requests import Requests
from drafter_trainer.distillation.store import SPLITS, KeySet, RowStore, count_unscored
from drafter_trainer.runs import Step

# Settings that the content of rows does not tell: rows made with both values must not lie in one store.
FIXED = frozenset({"drop_looping", "dtype"})
_NOT_OF_PROMPTS = FIXED | {"engine", "samples", "seed", "server_kind", "stop", "teacher_forcing", "temperatures"}


def prompts_file(settings: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Name the file of the prompts after all that decides them, so that no other settings find it."""
    deciding = {key: value for key, value in settings.items() if key not in _NOT_OF_PROMPTS}
    if settings.get("engine") == "text":
        deciding["engine"] = "text"  # pieces of text, of `max_new_tokens` each
    else:
        deciding.pop("max_new_tokens", None)
    content = json.dumps([deciding, dict(inputs)], sort_keys=True, default=str)
    return f"prompts-{hashlib.sha256(content.encode()).hexdigest()[:16]}.arrow"


def is_whole(folder: Path, facts: Mapping[str, Any]) -> bool:
    """Tell whether all rows of a finished step are there: a damaged shard may have been deleted."""
    rows = {split: sum(table.num_rows for table in RowStore(folder / split).tables(["seed"])) for split in SPLITS}
    return all(split in facts and rows[split] == facts[split]["rows"] for split in SPLITS)


def take_over(step: Step, asked: Mapping[str, tuple[Requests, RowStore]], scored: bool) -> bool:
    """Tell whether a step of other settings has left all that is asked for now, and finished.

    Returns:
        `bool`: If so, the step has its facts. Otherwise something is missing, and nothing is there that is not asked
        for.
    """
    unasked = missing = 0
    for requests, store in asked.values():
        keys, done = KeySet([[request.key for request in requests]]), store.keys()
        stored = (key for table in store.tables(["key"]) for key in table["key"].to_pylist())
        unasked += sum(key not in keys for key in stored)
        missing += sum(key not in done for key in keys)
        missing += sum(map(count_unscored, store.shards())) if scored else 0
    if unasked:
        step.refuse_difference(f", and {unasked} of its rows are not asked for now")
    return not missing and step.earlier["finished"] and step.reuse()
