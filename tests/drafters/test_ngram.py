"""N-gram tables: what an entry saves, what is pruned, where it stands in the file."""

from collections.abc import Sequence

import numpy as np
import pytest

from drafter_trainer.drafters.loop.sources import NgramTable, hash_context
from drafter_trainer.drafters.ngram import build_table, count_entries, hash_contexts, table_bytes
from tests.drafters.loop.test_sources import SHA256

A, B, C, D, E, F = range(1, 7)


def saved_by(texts: Sequence[Sequence[int]], orders: Sequence[int], min_share: float = 0.0) -> dict[tuple, float]:
    """Return what each entry of a table saves, by its context and token."""
    return {
        (*context, token): saved
        for entries in count_entries(texts, orders, min_share).values()
        for context, token, saved in zip(entries.contexts.tolist(), entries.tokens.tolist(), entries.saved.tolist())
    }


def test_lowest_order_saves_all_that_it_drafts() -> None:
    """Prevent a wrong order: frequent and certain runs come first."""
    texts = 4 * [[A, B]] + 2 * [[A, C]] + 3 * [[D, E]]
    # A: six times, four of them B, less 1/2. D: three times, less 1/2.
    assert saved_by(texts, (1,)) == pytest.approx({(A, B): 3.5, (D, E): 2.5})


def test_higher_order_saves_what_the_lower_one_misses() -> None:
    """Counted by its frequency alone, a run would push out others though the order below drafts the same."""
    texts = 6 * [[A, B, C]] + 3 * [[D, B, E]]
    # After B: C six times of nine, E three times; two followers leave 2 * 1/2 / 9 to an order that does not exist.
    chances = {C: 5.5 / 9, E: 2.5 / 9}
    # "D B" came three times, always with E: (3 - 1/2) / 3, and 1/2 / 3 as B has it. The table would back off to C,
    # which never came behind "D B": 1/2 / 3 as B has it.
    after = 2.5 / 3 + 0.5 / 3 * chances[E]
    backed_off = 0.5 / 3 * chances[C]
    # "A B" has C, as B itself: it saves nothing and is no entry.
    assert saved_by(texts, (1, 2)) == pytest.approx(
        {(A, B): 5.5, (D, B): 2.5, (B, C): 5.5, (D, B, E): 3 * (after - backed_off)}
    )


def test_back_off_passes_an_order_that_has_no_entry() -> None:
    """The table asks the next order that knows the run: what that one drafts is what an entry has to beat."""
    texts = [[A, B, C, D], [A, B, C, D], [E, B, C, D], [F, C, E], [A, C, E], [D, C, E], [B, C, F]]
    # C is followed by D three times, by E three times, by F once: D. So "B C" with D three times of four saves
    # nothing, and "A B C" with D, above it, is held against order 1.
    entries = saved_by(texts, (1, 2, 3))
    assert (B, C, D) not in entries
    assert (A, B, C, D) not in entries
    assert (F, C, E) in entries
    # Held against an order whose only entry is refused for its share, "A B C" is all there is.
    entries = saved_by([[A, B, C], [A, B, C], [D, B, E], [D, B, F], [E, B, F], [F, B, E]], (1, 2), min_share=0.5)
    assert (B, C) not in entries  # a quarter
    after = 1.5 / 2 + 0.5 / 2 * (1.5 / 6)
    assert entries[A, B, C] == pytest.approx(2 * after)


def test_least_valuable_entries_are_pruned() -> None:
    """A table that is cut by anything else is as large and drafts less."""
    texts = [text for number in range(40) for text in (number + 1) * [[100 + number, 200 + number]]]
    (entries,) = count_entries(texts, (1,)).values()
    assert entries.contexts[:, 0].tolist() == list(range(139, 99, -1))
    room = 3072 + 13 * 64  # bytes of 64 slots, of which 31 may be taken
    table = NgramTable(build_table({1: entries}, room))
    kept = [token for token in range(100, 140) if table.propose([token]) is not None]
    assert kept == list(range(109, 140))
    assert NgramTable(build_table({1: entries}, room - 1)).propose([109]) is None


@pytest.mark.parametrize("limit", [4096, 10_000, 200_000])
def test_file_fits_its_size(limit: int) -> None:
    """Prevent a file that is larger than its limit."""
    choose = np.random.default_rng(0)
    texts = choose.zipf(1.3, (300, 40)).clip(max=5000).tolist()
    entries = count_entries(texts, range(1, 6))
    size = len(table_bytes(build_table(entries, limit), SHA256))
    assert size <= limit
    assert limit > 150_000 or size > limit / 3  # doubling the slots of an order needs as much again
    whole = build_table(entries)
    assert {order: np.count_nonzero(hashes) for order, (hashes, *_) in whole.items()} == {
        order: len(kept) for order, kept in entries.items()
    }


@pytest.mark.parametrize("order", [1, 2, 5])
def test_runs_are_hashed_as_the_loop_hashes_each(order: int) -> None:
    """A table whose hashes differ from the questions' finds nothing, and fails in no other way."""
    runs = np.random.default_rng(order).integers(0, 262_144, (500, order))
    runs[0] = 0  # for order 1 this is the hash that would mark an empty slot
    assert hash_contexts(runs).tolist() == [hash_context(run) for run in runs.tolist()]
