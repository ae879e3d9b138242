"""Rows grouped by tokens."""

from collections import Counter

import numpy as np
import pytest

from drafter_trainer.training.batches import GroupedRows, fill_up, group_rows
from tests.training.conftest import COLLATOR, make_rows, with_lengths


@pytest.mark.parametrize("tokens", [100, 250, 1000, 10_000])
def test_every_row_is_in_one_group_within_the_budget(tokens: int) -> None:
    """Prevent rows that are never trained on, a batch that does not fit in memory, and groups that are half empty."""
    lengths = np.random.default_rng(0).integers(1, 101, 500)
    groups = group_rows(lengths, tokens, seed=0)
    assert sorted(np.concatenate(groups).tolist()) == list(range(500))
    padded = [len(group) * lengths[group].max() for group in groups]
    assert max(padded) <= tokens
    if tokens == 1000:
        assert sum(padded) < 1.05 * lengths.sum()
        assert len(groups) < 1.15 * lengths.sum() / tokens


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_share_every_row_once(processes: int) -> None:
    """Prevent rows from being trained on twice an epoch where the groups cannot be shared out evenly."""
    rows = with_lengths(make_rows(30))
    grouped = GroupedRows(rows, 64, 128, 0, processes, rows[0] | {"response_ids": []})
    assert len(grouped) % processes == 0
    seen = Counter()
    for number in range(len(grouped)):
        batch = grouped.__getitems__([number])
        collated = COLLATOR(batch)
        if (collated["labels"] != -100).any():
            seen.update(row["key"] for row in batch)
    assert seen == Counter(rows["key"])


def test_rows_are_filled_up_with_what_is_not_supervised() -> None:
    """Prevent a row from being lost, or one that is there already from being repeated."""
    rows = with_lengths(make_rows(9))
    filled = fill_up(rows, 4, rows[0] | {"response_ids": []})
    assert filled[:9] == rows[:9]
    assert len(filled) == 12
    assert filled[9:]["response_ids"] == [[]] * 3
    assert (COLLATOR([filled[10], filled[11]])["labels"] == -100).all()
    assert fill_up(rows, 3, rows[0]) is rows
