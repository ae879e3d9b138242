"""Prompt lookup by index."""

import random

import pytest

from drafter_trainer.drafters.loop.lookup import LONGEST, SuffixIndex


def scan(text: list[int], draft: list[int]) -> tuple[int, int] | None:
    """Find the longest known suffix of text and draft the slow way: its latest occurrence that has a successor."""
    tail = (text + draft)[-LONGEST:]
    for size in range(len(tail), 0, -1):
        for end in range(len(text) - 1, size - 1, -1):
            if text[end - size : end] == tail[-size:]:
                return text[end], size
    return None


@pytest.mark.parametrize("alphabet", [1, 2, 3, 6, 40])
def test_answers_are_those_of_a_scan(alphabet: int) -> None:
    """An index that is off by one place drafts with conviction, and wrong."""
    choose = random.Random(alphabet)
    for _ in range(30):
        index, text = SuffixIndex(), []
        for _ in range(12):
            more = [choose.randrange(alphabet) for _ in range(choose.randrange(6))]
            index.extend(more)
            text += more
            assert index.tokens == text
            for size in range(11):  # none, some, and more than what is looked at
                draft = [choose.randrange(alphabet) for _ in range(size)]
                assert index.next_token(draft) == scan(text, draft)


def test_suffix_does_not_find_itself() -> None:
    """What stands at the end of the text has no successor yet: found, it would hide an earlier occurrence."""
    index = SuffixIndex()
    assert index.next_token([]) is None
    assert index.next_token([4]) is None
    index.extend([4])
    assert index.next_token([]) is None
    index.extend([5])
    assert index.next_token([]) is None
    assert index.next_token([4]) == (5, 1)
    index.extend([4])
    assert index.next_token([]) == (5, 1)
    assert index.next_token([5]) == (4, 2)


def test_latest_occurrence_wins() -> None:
    """What was said last is likeliest to be said again."""
    index = SuffixIndex()
    index.extend([1, 2, 1, 3, 1])
    assert index.next_token([]) == (3, 1)
