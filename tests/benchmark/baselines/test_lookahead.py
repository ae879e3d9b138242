"""Lookahead's window and pool, by hand."""

import torch

from drafter_trainer.benchmark.baselines.lookahead import LookaheadDecoding
from drafter_trainer.decoding.metrics import Round
from drafter_trainer.decoding.rounds import decode
from tests.decoding.drafts import successor_model

SIZE = 16
COUNTING = [(token + 1) % SIZE for token in range(SIZE)]


def test_window_is_read_as_the_paper_draws_it() -> None:
    """Figure 2 of arXiv 2402.02057: rows stand one position further each, and a column hangs on the first row."""
    decoding = LookaheadDecoding(window=3, ngram=4, guesses=2)
    decoding.start(successor_model(COUNTING), [1, 2, 3])
    tree = decoding.draft([1, 2, 3], 10)
    # The last known token is column 0 of the first row; then its columns 1 and 2; then two rows of three.
    assert len(tree) == 1 + 2 + 3 + 3
    assert tree.parents == [-1, 0, 1, 0, 1, 2, 3, 4, 5]
    assert tree.depths == [0, 1, 2, 1, 2, 3, 2, 3, 4]
    assert tree.longest == 0  # nothing of it may be accepted


def test_pool_and_window_move_on() -> None:
    """An n-gram put together from two columns, or a window that stands still, would never be right."""
    decoding = LookaheadDecoding(window=2, ngram=3, guesses=2)
    decoding.start(successor_model(COUNTING), [7])
    tree = decoding.draft([7], 10)
    assert tree.tokens == [7, 7, 7, 7]
    logits = torch.nn.functional.one_hot(torch.tensor([9, 9, 3, 4]), SIZE).float()
    decoding.look(tree, logits)  # behind the last row the target says 3 and 4
    tree = decoding.draft([7, 8], 10)
    assert tree.tokens == [8, 7, 3, 4]  # rows: 8 (the last known token), 7; 3, 4
    decoding.look(tree, torch.nn.functional.one_hot(torch.tensor([0, 0, 5, 6]), SIZE).float())
    # n-grams: 7 7 3 and 7 7 4 of the first pass, 8 3 5 and 7 4 6 of the second; of those from 7 the latest two stay
    tree = decoding.draft([7, 8, 7], 10)
    assert [tree.path(node) for node in range(1, 5)] == [[4], [4, 6], [7], [7, 4]]
    assert tree.longest == 2
    assert decoding.draft([7, 8], 1).longest == 1  # cut where the text has to end


def test_what_has_been_foreseen_is_drafted() -> None:
    """The guesses of the first lap are the n-grams of the second: without them each pass yields one token."""
    target_model = successor_model(COUNTING)
    decoding = decode(target_model, [3, 4], {"custom_generate": LookaheadDecoding(4, 4, 3)}, 0.0, 0, 60)
    assert decoding.output_ids == [(5 + number) % SIZE for number in range(60)]
    later = decoding.rounds[SIZE:-1]
    assert len(later) >= 10
    assert later == [Round(3, 3, rejected=False)] * len(later)
