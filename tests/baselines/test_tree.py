"""Trees of drafts: acceptance, and the choice of nodes."""

import pytest
import torch

from benchmarks.baselines.tree import Tree, accept_by_chance, grow_tree


@pytest.mark.parametrize("kind", ["drawn", "certain", "drawn, and the first sibling's q claimed for the second"])
def test_two_siblings_keep_the_targets_distribution(kind: str) -> None:
    """A second sibling judged by the first one's q is accepted too often; this error gives 0.4, 0.4, 0.2."""
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    scores, counts = p.log().expand(3, 3), torch.zeros(3)
    torch.manual_seed(0)
    for _ in range(4000):
        tree, left = Tree(0), q
        for token in torch.multinomial(q, 2, replacement=False).tolist():
            tree.add(token, 0, None if kind == "certain" else left)
            if kind == "drawn":
                left = left.index_fill(0, torch.tensor(token), 0.0)
                left = left / left.sum()
        path, following = accept_by_chance(tree, scores)
        counts[tree.tokens[path[0]] if path else following] += 1
    expected = torch.tensor([0.4, 0.4, 0.2]) if "claimed" in kind else p
    # Four standard deviations of the most uncertain of the three.
    torch.testing.assert_close(counts / 4000, expected, atol=4 * (0.25 / 4000) ** 0.5, rtol=0)


def test_tree_has_the_most_likely_nodes() -> None:
    """Unlikely nodes cost time in each pass. The probabilities: 0.6, 0.36, 0.31, 0.3, 0.186, 0.155."""
    accuracies = [[0.6, 0.31], [0.6, 0.5]]
    assert grow_tree(accuracies, 4) == [(0,), (0, 0), (1,), (0, 1)]
    assert grow_tree(accuracies, 100) == [(0,), (0, 0), (1,), (0, 1), (1, 0), (1, 1)]
    # A rank that was never right on few held-out rows must not hide the ranks after it.
    assert grow_tree([[0.0, 0.5, 0.2], [0.5]], 3) == [(0,), (1,), (1, 0)]
