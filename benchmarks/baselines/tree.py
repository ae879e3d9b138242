"""Trees of drafts: several possible continuations, verified by the target in one forward pass."""

import heapq
import math
from collections.abc import Sequence

import numpy as np
import torch


class Tree:
    """A tree of drafted tokens after the last verified token, which is node 0.

    Parents are added before their children.
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
        """Add a drafted token after a node.

        Args:
            parent (`int`): The node before the token.
            chances (`torch.Tensor` of shape `(vocabulary,)`, *optional*): The q from which the token was drawn, given
                the earlier siblings; `None` if it was not drawn.
            offered (`bool`, *optional*, defaults to `True`): Whether the token can be accepted; otherwise it
                only gives the target's logits after it.
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
        """Return the tokens on the path to a node, including its own token but not the root's."""
        tokens = []
        while node:
            tokens.append(self.tokens[node])
            node = self.parents[node]
        return tokens[::-1]

    @property
    def longest(self) -> int:
        """Depth of the deepest node that can be accepted."""
        return max((self.depths[child] for children in self.children for child in children), default=0)


def ancestry(parents: Sequence[int]) -> torch.Tensor:
    """Return which nodes each node attends to: itself and the nodes on the path to it.

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
    """Make the attention mask for nodes after a cache.

    Args:
        seen (`torch.Tensor` of shape `(queries, nodes)`): The nodes to which each query attends.
        cached (`int`): Number of cached tokens, to which all nodes attend.
    Returns:
        `torch.Tensor` of shape `(1, 1, queries, cached + nodes)`, added to the attention scores.
    """
    mask = torch.zeros(len(seen), cached + seen.shape[1], dtype=dtype, device=device)
    mask[:, cached:].masked_fill_(~seen.to(device), torch.finfo(dtype).min)
    return mask[None, None]


def follow_choices(tree: Tree, choices: Sequence[int]) -> tuple[list[int], int]:
    """Accept the tokens that the target has chosen, for greedy decoding.

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
    """Accept drafts so that the output has the target's distribution.

    At each node, the children are tried in turn: token x, drawn from q, is accepted with probability
    min(1, p(x) / q(x)). If it is rejected, p becomes max(0, p - q), normalized, for the next child. A token that was
    not drawn has a q of 1. If no child is accepted, the next token is drawn from the remaining p.

    Args:
        scores (`torch.Tensor` of shape `(nodes, vocabulary)`): Unnormalized p after each node.
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
            # For equal distributions, only rounding errors remain.
            if (total := rest.sum()) > 0:
                p = rest / total
        else:
            return path, int(torch.multinomial(p, 1))
        path.append(child)
        node = child


def grow_tree(accuracies: Sequence[Sequence[float]], nodes: int) -> list[tuple[int, ...]]:
    """Choose the tree of a given size with the most expected tokens.

    The name of a node is the path of ranks to it: (1, 0) is the best token after the second best token. Its
    probability is estimated as the product of its ranks' accuracies, and the most probable nodes are chosen.

    Args:
        accuracies (`Sequence[Sequence[float]]`): For each depth, the accuracy of each rank, best rank first.
    Returns:
        `list` of nodes, each after its parent and its better siblings.
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
