"""The window and the n-gram pool of Lookahead decoding, by hand."""

import torch

from benchmarks.baselines.lookahead import LookaheadDecoding
from tests.decoding.drafts import COUNTING, SIZE, successor_model


def test_pool_and_window_advance() -> None:
    """An n-gram of two columns, or a window that does not advance, would never be right."""
    decoding = LookaheadDecoding(window=2, ngram=3, guesses=2)
    decoding.start(successor_model(COUNTING), [7])
    tree = decoding.draft([7], 10)
    assert tree.tokens == [7, 7, 7, 7]
    logits = torch.nn.functional.one_hot(torch.tensor([9, 9, 3, 4]), SIZE).float()
    decoding.look(tree, logits)  # after the last row the target predicts 3 and 4
    tree = decoding.draft([7, 8], 10)
    assert tree.tokens == [8, 7, 3, 4]  # rows: 8 (the last known token), 7; 3, 4
    decoding.look(tree, torch.nn.functional.one_hot(torch.tensor([0, 0, 5, 6]), SIZE).float())
    # n-grams: 7 7 3 and 7 7 4 of the first pass, 8 3 5 and 7 4 6 of the second; of those from 7 the latest two stay
    tree = decoding.draft([7, 8, 7], 10)
    assert [tree.path(node) for node in range(1, 5)] == [[4], [4, 6], [7], [7, 4]]
    assert tree.longest == 2
    assert decoding.draft([7, 8], 1).longest == 1  # limited by the length limit
