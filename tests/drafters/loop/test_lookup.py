"""Prompt lookup by index."""

import random

import pytest

from drafter_trainer.drafters.loop.settings import LOOKUP_BINS
from drafter_trainer.drafters.loop.sources import PromptLookup


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
    """An index that is off by one place drafts with conviction, and wrong."""
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
