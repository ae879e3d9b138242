"""Batches by tokens: rows of like lengths together, so that hardly anything is padding; and rows shared out evenly."""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
from torch.utils.data import Dataset


def fill_up(rows: datasets.Dataset, multiple: int, nothing: dict[str, Any]) -> datasets.Dataset:
    """Add rows of which nothing is supervised until their number is a multiple.

    Where processes cannot share rows out evenly, accelerate repeats rows that others have.

    Args:
        multiple (`int`): Rows that all processes together take at once.
        nothing (`dict`): The row that is added.
    """
    lacking = -len(rows) % multiple
    if not lacking:
        return rows
    return datasets.concatenate_datasets([rows, datasets.Dataset.from_list([nothing] * lacking, rows.features)])


def group_rows(lengths: Sequence[int], tokens: int, seed: int) -> list[np.ndarray]:
    """Group rows so that none needs more than so many tokens, padding included.

    Args:
        lengths (`Sequence[int]`): Tokens of each row, none above `tokens`.
        tokens (`int`): Rows of a group times the longest of them, at most.
        seed (`int`): Decides which rows of one length come together.
    Returns:
        `list` of arrays of row numbers; each row is in one of them.
    """
    # In 32 bits: there may be millions of rows.
    lengths = np.asarray(lengths, dtype=np.int32)
    order = np.random.default_rng(seed).permutation(np.arange(len(lengths), dtype=np.int32))
    order = order[np.argsort(-lengths[order], kind="stable")]
    groups, start = [], 0
    while start < len(order):
        size = tokens // lengths[order[start]]
        groups.append(order[start : start + size])
        start += size
    return groups


class GroupedRows(Dataset):
    """Groups of rows as a dataset: a Trainer that draws one item gets a whole batch.

    What it draws are groups: shuffling, dividing them among processes and going on after an interruption stay the
    Trainer's.

    Where the processes cannot share the groups out evenly, some get a row of which nothing is supervised: accelerate
    would repeat rows that others have.

    Args:
        max_length (`int`): Longer rows are cut to it.
    """

    def __init__(
        self, rows: datasets.Dataset, max_length: int, tokens: int, seed: int, processes: int, nothing: dict[str, Any]
    ) -> None:
        self.rows, self.nothing = rows, nothing
        lengths = rows.select_columns("length").with_format("arrow")[:]["length"].to_numpy()
        self.groups = group_rows(np.minimum(lengths, max_length), tokens, seed)
        self.groups += [np.empty(0, dtype=int)] * (-len(self.groups) % processes)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitems__(self, numbers: list[int]) -> list[dict[str, Any]]:
        """Return the rows of groups, which torch's loader hands to the collator as they are."""
        chosen = np.concatenate([self.groups[number] for number in numbers])
        if len(chosen) == 0:
            return [self.nothing]
        columns = self.rows[chosen]
        return [dict(zip(columns, values)) for values in zip(*columns.values())]
