"""Prompt lookup against a scan; n-gram tables: counted, written, read and asked."""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save

from drafter_trainer.drafters import ngram as counting
from drafter_trainer.drafters.loop import sources as reading
from drafter_trainer.drafters.loop.settings import LOOKUP_BINS, NGRAM_BINS, bin_of
from drafter_trainer.drafters.loop.sources import NgramTable, PromptLookup, hash_context
from drafter_trainer.drafters.ngram import count_table, table_bytes

SHA256 = "ab" * 32
VOCABULARY = 60


def random_answers(alphabet: int, seed: int = 0) -> list[list[int]]:
    choose = random.Random(seed)
    return [[choose.randrange(alphabet) for _ in range(choose.randrange(25))] for _ in range(60)]


def count_naively(answers: Sequence[Sequence[int]], order: int) -> dict[tuple[int, ...], tuple[int, float]]:
    """Count for each run its best follower (the lowest of equals) and the follower's share."""
    followers: dict[tuple[int, ...], Counter[int]] = {}
    for answer in answers:
        for place in range(order, len(answer)):
            followers.setdefault(tuple(answer[place - order : place]), Counter())[answer[place]] += 1
    result = {}
    for context, counts in followers.items():
        best = min(counts, key=lambda token: (-counts[token], token))
        result[context] = best, (counts[best] - 0.5) / counts.total()
    return result


@pytest.mark.parametrize(("alphabet", "min_share"), [(2, 0.0), (5, 0.3), (VOCABULARY, 0.3)])
def test_table_holds_what_was_counted(alphabet: int, min_share: float) -> None:
    """Prevent wrong followers and wrong shares."""
    answers = random_answers(alphabet)
    for order in (1, 2, 3):  # each by itself: none leaves to a lower one what that has too
        table = NgramTable(count_table(answers, (order,), min_share))
        expected = count_naively(answers, order)
        assert len(expected) >= alphabet
        for context, (token, share) in expected.items():
            bin_ = (order - 1) * NGRAM_BINS + bin_of(round(255 * share) / 255, NGRAM_BINS)
            assert table.propose(list(context)) == (None if share < min_share else (token, bin_))


def known(table: NgramTable, tail: list[int]) -> tuple[int, int]:
    """Return what a table tells, and the order that knew it."""
    token, bin_ = table.propose(tail)
    return token, bin_ // NGRAM_BINS + 1


def test_higher_orders_come_first() -> None:
    """Three tokens of context know more than one, even where one is surer of itself."""
    answers = [[1, 2, 3, 4], [9, 2, 3, 5], [9, 2, 3, 5], [7, 3, 5], [8, 3, 5]]
    answers += 2 * [[8, 4, 6]] + 3 * [[5, 4, 7]]
    table = NgramTable(count_table(answers, (1, 2, 3)))
    assert table.orders == [3, 2, 1]
    assert known(table, [1, 2, 3]) == (4, 3)
    assert known(table, [0, 1, 2, 3]) == (4, 3)  # a longer tail is cut
    assert known(table, [0, 9, 2, 3]) == (5, 1)  # what lower orders know too stands there alone
    assert known(table, [0, 1, 2]) == (3, 1)
    assert known(table, [0, 8, 4]) == (6, 2)
    assert known(table, [8, 4]) == (6, 2)  # a shorter one asks the orders that it can
    assert known(table, [6, 4]) == (7, 1)
    assert known(table, [6, 6, 3]) == (5, 1)
    assert table.propose([6]) is None
    assert table.propose([]) is None


@pytest.mark.parametrize("answers", [[], [[]], [[1], [2]]])
def test_table_without_entries_knows_nothing(answers: list[list[int]], tmp_path: Path) -> None:
    """A language with hardly any answers must give a table that is read and asked like any other."""
    slots = count_table(answers, (1, 2))
    (tmp_path / "t.safetensors").write_bytes(table_bytes(slots, SHA256))
    for table in (NgramTable(slots), NgramTable.read(tmp_path / "t.safetensors", VOCABULARY, SHA256)):
        assert table.orders == [2, 1]
        assert table.propose([1, 2]) is None


@pytest.mark.parametrize(
    "collide",
    [
        pytest.param(lambda context: ((sum(context) + 1) << 20) | 0xFFFFF, id="all in the last slot"),
        pytest.param(lambda context: ((sum(context) + 1) << 20) | (sum(context) & 3), id="four slots"),
    ],
)
def test_contexts_in_the_same_slot_are_told_apart(monkeypatch, collide) -> None:
    """The search for a slot goes on behind an occupied one, around the end too, and stops at an empty one."""
    monkeypatch.setattr(reading, "hash_context", collide)
    monkeypatch.setattr(
        counting, "hash_contexts", lambda runs: np.array([collide(run) for run in runs.tolist()], np.uint64)
    )
    table = NgramTable(count_table([[token, 59 - token] for token in range(20)], (1,), min_share=0.0))
    assert [table.propose([token])[0] for token in range(20)] == [59 - token for token in range(20)]
    assert [table.propose([token]) for token in range(20, 40)] == [None] * 20


def test_hashes_are_the_published_ones() -> None:
    """Another hash finds nothing in the tables that are published already: change TABLE_FORMAT with it."""
    assert reading.TABLE_FORMAT == "1"
    assert hash_context([0]) == 1  # mixed it would be 0, which marks an empty slot
    assert hash_context((1, 2)) == hash_context([1, 2]) == 0xDAA66D2AA8EC1D5C
    assert hash_context([2, 1]) == 0x9C388ADBB85671F6
    assert hash_context([49151, 0, 128000]) == 0x8DA0EF06A419A4C3


def test_table_is_read_as_it_was_counted(tmp_path: Path) -> None:
    """Unsigned hashes pass through a signed type: half of them would be lost without the way back."""
    answers = random_answers(VOCABULARY)
    counted = NgramTable(count_table(answers, (1, 2)))
    (tmp_path / "t").write_bytes(table_bytes(count_table(answers, (1, 2)), SHA256))
    read = NgramTable.read(tmp_path / "t", VOCABULARY, SHA256)
    assert read.orders == counted.orders == [2, 1]
    contexts = [list(context) for order in (1, 2) for context in count_naively(answers, order)]
    found, expected = ([table.propose(context) for context in contexts] for table in (read, counted))
    assert found == expected
    assert found.count(None) < len(found) / 2


def slots(*lengths: int) -> bytes:
    """Write a table whose columns have these lengths."""
    return table_bytes({1: tuple(map(np.zeros, lengths, (np.uint64, np.int32, np.uint8)))}, SHA256)


WHOLE = table_bytes(count_table([[1, 2, 3], [1, 2, 4], [1, 2, 4]], (1, 2)), SHA256)
HASHES = {"hashes.1": np.zeros(1, np.int64)}


@pytest.mark.parametrize(
    ("content", "vocabulary", "sha256", "message"),
    [
        (WHOLE, VOCABULARY, "cd" * 32, "was counted with another tokenizer: count it again"),
        (WHOLE, 4, SHA256, "has ids outside the vocabulary of 4"),
        (save(HASHES, metadata={"format": "2"}), VOCABULARY, SHA256, "has format 2, expected 1"),
        (save(HASHES), VOCABULARY, SHA256, "has format None, expected 1"),
        (slots(4, 4, 2), VOCABULARY, SHA256, "the slots of order 1 have wrong lengths"),
        (slots(3, 3, 3), VOCABULARY, SHA256, "the slots of order 1 have wrong lengths"),  # no power of two
    ],
)
def test_table_that_does_not_fit_is_refused(tmp_path, content, vocabulary, sha256, message) -> None:
    """Prevent ids of another tokenizer, and ids or slots out of range."""
    path = tmp_path / "ngram.safetensors"
    path.write_bytes(WHOLE)
    NgramTable.read(path, 5, SHA256)
    path.write_bytes(WHOLE[:-1])
    with pytest.raises(SafetensorError):  # the loop goes on without a file that a download cut short
        NgramTable.read(path, 5, SHA256)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        NgramTable.read(path, vocabulary, sha256)


# Lookup


def scan(text: list[int], draft: list[int]) -> tuple[int, int] | None:
    """Find the longest known suffix of text and draft the slow way: its latest occurrence that has a successor."""
    tail = (text + draft)[-LOOKUP_BINS:]
    for size in range(len(tail), 0, -1):
        for end in range(len(text) - 1, size - 1, -1):
            if text[end - size : end] == tail[-size:]:
                return text[end], size - 1
    return None


@pytest.mark.parametrize("alphabet", [1, 2, 3, 6, 40])
def test_answers_are_those_of_a_scan(alphabet: int) -> None:
    """Prevent an index that is off by one place."""
    choose = random.Random(alphabet)
    for _ in range(30):
        index, text = PromptLookup(), []
        for _ in range(12):
            more = [choose.randrange(alphabet) for _ in range(choose.randrange(6))]
            index.extend(more)
            text += more
            assert index.tokens == text
            for size in range(11):  # none, some, and more than what is looked at
                draft = [choose.randrange(alphabet) for _ in range(size)]
                assert index.propose(index.tokens[-LOOKUP_BINS:] + draft) == scan(text, draft)
