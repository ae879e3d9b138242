"""Trees of drafts: several guesses at what comes next, verified by the target in one pass."""

import heapq
import math
from collections.abc import Sequence

import numpy as np
import torch


class Tree:
    """Hold guesses at what follows the last known token, which is node 0.

    A parent is always added before its children.
    """

    def __init__(self, root: int) -> None:
        self.tokens = [root]
        self.parents = [-1]
        self.depths = [0]
        self.chances: list[torch.Tensor | None] = [None]
        self.children: list[list[int]] = [[]]

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, token: int, parent: int, chances: torch.Tensor | None = None, offered: bool = True) -> int:
        """Add a guess at what follows a node.

        Args:
            parent (`int`): The node that it follows.
            chances (`torch.Tensor` of shape `(vocabulary,)`, *optional*): The q that the token was drawn from, given
                the siblings that were drawn before it; left out where nothing was drawn.
            offered (`bool`, *optional*, defaults to `True`): Whether it may be accepted; otherwise the target reads
                it for what follows from it alone.
        """
        node = len(self.tokens)
        self.tokens.append(token)
        self.parents.append(parent)
        self.depths.append(self.depths[parent] + 1)
        self.chances.append(chances)
        self.children.append([])
        if offered:
            self.children[parent].append(node)
        return node

    def path(self, node: int) -> list[int]:
        """Return the tokens on the way to a node, its own included, the root's not."""
        tokens = []
        while node:
            tokens.append(self.tokens[node])
            node = self.parents[node]
        return tokens[::-1]

    @property
    def longest(self) -> int:
        """Tokens of the longest way that may be accepted."""
        return max((self.depths[child] for children in self.children for child in children), default=0)


def ancestry(parents: Sequence[int]) -> torch.Tensor:
    """Tell which nodes each node may attend to: itself and those on the way to it.

    Args:
        parents (`Sequence[int]`): The parent of each node, before its children; -1 for none.
    Returns:
        Boolean `torch.Tensor` of shape `(nodes, nodes)`.
    """
    seen = np.eye(len(parents), dtype=bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            seen[node] |= seen[parent]
    return torch.from_numpy(seen)


def attention_mask(seen: torch.Tensor, cached: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Make the mask with which stock attention modules read nodes behind a cache.

    Args:
        seen (`torch.Tensor` of shape `(queries, nodes)`): Which nodes each one that is read attends to.
        cached (`int`): Tokens in the cache before the nodes, which all of them attend to.
    Returns:
        `torch.Tensor` of shape `(1, 1, queries, cached + nodes)`: what is added to the attention's scores.
    """
    mask = torch.zeros(len(seen), cached + seen.shape[1], dtype=dtype, device=device)
    mask[:, cached:].masked_fill_(~seen.to(device), torch.finfo(dtype).min)
    return mask[None, None]


def follow_choices(tree: Tree, choices: Sequence[int]) -> tuple[list[int], int]:
    """Accept what the target itself has chosen, as greedy decoding does.

    Args:
        choices (`Sequence[int]`): The target's token after each node.
    Returns:
        `tuple` of the accepted nodes, in order, and the token that follows them.
    """
    node, path = 0, []
    while True:
        child = next((child for child in tree.children[node] if tree.tokens[child] == choices[node]), None)
        if child is None:
            return path, choices[node]
        path.append(child)
        node = child


def accept_by_chance(tree: Tree, scores: torch.Tensor) -> tuple[list[int], int]:
    """Accept drafts so that the output has the target's distribution, whatever was drafted.

    At each node its children are tried in turn: token x, drawn from q, is accepted with probability
    min(1, p(x) / q(x)); else p becomes max(0, p - q), normalised, for the next one. What nothing was drawn for counts
    as drawn from a q that is certain of it. Where no child is accepted, the next token is drawn from what is left.

    Args:
        scores (`torch.Tensor` of shape `(nodes, vocabulary)`): Unnormalised p after each node.
    Returns:
        `tuple` of the accepted nodes, in order, and the token that follows them.
    Source: Miao et al., SpecInfer (arXiv 2305.09781), algorithm 2; Li et al., EAGLE (arXiv 2401.15077), appendix A; Fu
        et al., Lookahead decoding (arXiv 2402.02057), algorithm 4
    """
    node, path = 0, []
    while True:
        p = scores[node].softmax(dim=-1)
        for child in tree.children[node]:
            token, q = tree.tokens[child], tree.chances[child]
            if torch.rand(()).item() * (1.0 if q is None else q[token].item()) < p[token].item():
                break
            rest = p.index_fill(0, torch.tensor(token, device=p.device), 0.0) if q is None else (p - q).clamp(min=0)
            # Equal distributions leave nothing but what rounding leaves.
            if (total := rest.sum()) > 0:
                p = rest / total
        else:
            return path, int(torch.multinomial(p, 1))
        path.append(child)
        node = child


def grow_tree(accuracies: Sequence[Sequence[float]], nodes: int) -> list[tuple[int, ...]]:
    """Choose the tree of so many nodes from which most tokens may be expected.

    A node is named by the ranks of the guesses on the way to it: (1, 0) is the best guess after the second best one.
    Its chance is taken as the product of its ranks' accuracies, and the nodes of the largest chances are chosen.

    Args:
        accuracies (`Sequence[Sequence[float]]`): For each depth, how often the guess of each rank is right, best rank
            first.
    Returns:
        `list` of nodes, each behind its parent and its better siblings.
    Source: Cai et al., Medusa (arXiv 2401.10774), section 2.3.3
    """
    chosen: list[tuple[int, ...]] = []
    heap: list[tuple[float, tuple[int, ...]]] = []

    def consider(path: tuple[int, ...]) -> None:
        depth, rank = len(path) - 1, path[-1]
        if depth < len(accuracies) and rank < len(accuracies[depth]):
            chance = math.prod(accuracies[level][rank] for level, rank in enumerate(path))
            heapq.heappush(heap, (-chance, path))

    consider((0,))
    while heap and len(chosen) < nodes:
        _, path = heapq.heappop(heap)
        chosen.append(path)
        consider((*path[:-1], path[-1] + 1))
        consider((*path, 0))
    return chosen
