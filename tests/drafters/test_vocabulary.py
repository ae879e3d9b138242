"""The draft vocabulary: counted, chosen, written."""

from pathlib import Path

import numpy as np
import pytest
import torch

from drafter_trainer.drafters.loop.repository import read_vocabulary
from drafter_trainer.drafters.vocabulary import choose_ids, count_ids, coverage, vocabulary_bytes

COUNTS = np.array([0, 5, 2, 0, 9, 2, 1, 0])


def test_ids_are_counted() -> None:
    """A count that misses an answer chooses another vocabulary, and says nothing."""
    counts = count_ids([[4, 4, 1], [], [7, 4]], 8)
    assert counts.tolist() == [0, 1, 0, 0, 3, 0, 0, 1]
    assert count_ids([], 3).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("size", "always", "expected"),
    [
        (2, [], [1, 4]),
        (3, [], [1, 2, 4]),  # of equals the lower id
        (8, [], [1, 2, 4, 5, 6]),  # what never occurred is no help
        (3, [0], [0, 1, 4]),  # counts towards the size
        (3, [4, 4], [1, 2, 4]),  # one that is frequent anyway takes no other's place
        (2, [4, 1, 0], [0, 1, 4]),  # chosen even beyond the size
        (0, [7], [7]),
    ],
)
def test_most_frequent_ids_are_chosen(size: int, always: list[int], expected: list[int]) -> None:
    """A vocabulary without the end of a text can never draft it."""
    ids = choose_ids(COUNTS, size, always)
    assert ids.dtype == torch.int64
    assert ids.tolist() == expected


def test_coverage_is_a_share_of_tokens() -> None:
    """Counted over ids instead of tokens, a good vocabulary would look poor."""
    assert coverage(torch.tensor([1, 4]), COUNTS) == pytest.approx(14 / 19)
    assert coverage(torch.arange(8), COUNTS) == 1.0
    assert coverage(torch.tensor([3]), np.zeros(8, np.int64)) == 0.0


def test_file_gives_back_the_ids(tmp_path: Path) -> None:
    """What is written in 32 bits indexes a head in 64."""
    path = tmp_path / "draft_vocabulary.safetensors"
    path.write_bytes(vocabulary_bytes(choose_ids(COUNTS, 4, [7])))
    ids = read_vocabulary(path, 8)
    assert ids.dtype == torch.int64
    assert ids.tolist() == [1, 2, 4, 7]


@pytest.mark.parametrize(
    ("ids", "vocabulary"),
    [([1, 2, 8], 8), ([-1, 2], 8), ([2, 1], 8), ([1, 1, 2], 8), ([], 8), ([[1, 2]], 8)],
)
def test_ids_that_do_not_fit_are_refused(tmp_path: Path, ids: list, vocabulary: int) -> None:
    """Ids beyond the head fail within a kernel; unordered or doubled ones draft other tokens than were meant."""
    path = tmp_path / "draft_vocabulary.safetensors"
    path.write_bytes(vocabulary_bytes(torch.tensor(ids, dtype=torch.int64)))
    with pytest.raises(ValueError, match="holds no ascending ids below 8: it is of another tokenizer"):
        read_vocabulary(path, vocabulary)
