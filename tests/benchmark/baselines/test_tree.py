"""Trees of drafts: what attends to what, what is accepted, which nodes are worth a place."""

import pytest
import torch

from drafter_trainer.benchmark.baselines.tree import (
    Tree,
    accept_by_chance,
    ancestry,
    attention_mask,
    follow_choices,
    grow_tree,
)


def made_tree() -> Tree:
    r"""Make the tree 5 -> (6 -> (8 -> 9, 7), 7), of which nothing may be accepted behind 8."""
    tree = Tree(5)
    first, _ = tree.add(6, 0), tree.add(7, 0)
    below = tree.add(8, first)
    tree.add(7, first)
    tree.add(9, below, offered=False)
    return tree


def test_nodes_attend_to_their_own_way_alone() -> None:
    """A guess that sees its siblings is verified behind a text that nobody wrote."""
    seen = ancestry([-1, 0, 0, 1, 1, 3]).int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 0, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 1, 0, 1],
    ]
    mask = attention_mask(ancestry([-1, 0, 0])[-1:], 2, torch.float32, torch.device("cpu"))
    assert mask.shape == (1, 1, 1, 5)
    assert (mask == 0).flatten().tolist() == [True, True, True, False, True]


def test_longest_way_leaves_out_what_is_read_along() -> None:
    """Counted as drafted, the window of Lookahead would lower its acceptance."""
    tree = made_tree()
    assert (len(tree), tree.depths, tree.longest) == (6, [0, 1, 1, 2, 2, 3], 2)
    assert tree.path(5) == [6, 8, 9]
    assert tree.path(0) == []


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ([1, 1, 1, 1, 1, 1], ([], 1)),
        ([7, 1, 3, 1, 1, 1], ([2], 3)),
        ([6, 8, 1, 9, 1, 1], ([1, 3], 9)),  # what is read along is not accepted
        ([6, 7, 1, 1, 4, 1], ([1, 4], 4)),
    ],
)
def test_greedy_follows_the_target(choices: list[int], expected: tuple[list[int], int]) -> None:
    """A node accepted against the target's own choice is another text."""
    assert follow_choices(made_tree(), choices) == expected


@pytest.mark.parametrize("kind", ["drawn", "certain", "drawn, and the first sibling's q claimed for the second"])
def test_two_siblings_in_turn_leave_the_targets_distribution(kind: str) -> None:
    """Each sibling is drawn from, and judged by, what the one before it left over: else one of them comes too often.

    A wrong claim is planted too: by hand the shares would be 0.4, 0.4 and 0.2 then.
    """
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


def test_tree_grows_where_most_is_expected() -> None:
    """Guesses that hardly ever come true cost time in each pass. The chances: 0.6, 0.36, 0.31, 0.3, 0.186, 0.155."""
    accuracies = [[0.6, 0.31], [0.6, 0.5]]
    assert grow_tree(accuracies, 4) == [(0,), (0, 0), (1,), (0, 1)]
    assert grow_tree(accuracies, 100) == [(0,), (0, 0), (1,), (0, 1), (1, 0), (1, 1)]
    # A rank that was never right on few held-out rows must not hide those behind it.
    assert grow_tree([[0.0, 0.5, 0.2], [0.5]], 3) == [(0,), (1,), (1, 0)]
