"""Medusa: heads on the target's last hidden state, each of which guesses one more token ahead.

Source: Cai et al., "Medusa: Simple LLM Inference Acceleration Framework with Multiple Decoding Heads" (arXiv
2401.10774), Medusa-1, which leaves the target as it is. A head here has no projection to the vocabulary of its own:
the target's reads what it gives.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from benchmarks.baselines.decoding import TreeDecoding
from benchmarks.baselines.tree import Tree

_THRESHOLD = 0.09  # ε and δ of the paper's typical acceptance, as its code sets them
_ENTROPY_FACTOR = 0.3


class MedusaHeads(torch.nn.Module):
    """Turn a hidden state into those of the positions behind it: head k's is x + SiLU(W_k x + b_k).

    They begin as the identity, so that each head says at first what the target's own does.
    """

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(heads))
        for parameter in self.parameters():
            torch.nn.init.zeros_(parameter)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Compute the heads' states.

        Args:
            hidden (`torch.Tensor` of shape `(..., width)`): What the target's head reads.
        Returns:
            `torch.Tensor` of shape `(heads, ..., width)`.
        """
        return torch.stack([hidden + F.silu(layer(hidden)) for layer in self.layers])


class MedusaDecoding(TreeDecoding):
    """Decode with Medusa heads and a static tree: greedily exact, sampling by typical acceptance, which is lossy.

    Args:
        heads (`MedusaHeads`): On the target's device, in its dtype.
        head_weight (`torch.Tensor` of shape `(draft vocabulary, width)`): Of the target's head.
        draft_ids (`torch.Tensor` of shape `(draft vocabulary,)`): The ids of its rows.
        shape (`Sequence[tuple[int, ...]]`): The tree's nodes, see `grow_tree`.
    """

    def __init__(
        self,
        heads: MedusaHeads,
        head_weight: torch.Tensor,
        draft_ids: torch.Tensor,
        shape: Sequence[tuple[int, ...]],
    ) -> None:
        super().__init__()
        self.draft_length = max(map(len, shape))
        self._heads, self._head_weight, self._draft_ids, self._shape = heads, head_weight, draft_ids, shape
        self._ranks = 1 + max(map(max, shape))

    def learn(self, hidden: torch.Tensor) -> None:
        """Keep the last hidden state."""
        self._hidden = hidden[-1:]

    def draft(self, known: list[int], longest: int) -> Tree:
        """Fill the tree with each head's best tokens."""
        tree = Tree(known[-1])
        if longest < 1:
            return tree
        best = F.linear(self._heads(self._hidden)[:, 0], self._head_weight).topk(self._ranks).indices
        tokens = self._draft_ids[best].tolist()
        nodes: dict[tuple[int, ...], int] = {(): 0}
        for path in self._shape:
            if len(path) <= longest:
                nodes[path] = tree.add(tokens[len(path) - 1][path[-1]], nodes[path[:-1]])
        return tree

    def accept(self, tree: Tree, scores: torch.Tensor) -> tuple[list[int], int]:
        """Accept nodes; when sampling, by typical acceptance."""
        return accept_typical(tree, scores) if self.sampling else super().accept(tree, scores)


def accept_typical(tree: Tree, scores: torch.Tensor) -> tuple[list[int], int]:
    """Accept the longest way of tokens that the target might well say, which is not how often it says them.

    A token is typical where p(x) > min(ε, δ exp(-H(p))). The token behind the accepted ones is drawn from the typical
    ones.

    Args:
        scores (`torch.Tensor` of shape `(nodes, vocabulary)`): Unnormalised p after each node.
    Returns:
        `tuple` of the accepted nodes, in order, and the token that follows them.
    Source: arXiv 2401.10774, section 2.3.1; its first token of each round is the target's best, which would make the
        whole output one and the same, so that here it is drawn, as an option of the paper's code does
    """
    chances = scores.softmax(dim=-1)
    entropy = torch.special.entr(chances).sum(dim=-1, keepdim=True)
    typical = chances > (_ENTROPY_FACTOR * (-entropy).exp()).clamp(max=_THRESHOLD)
    ways: dict[int, list[int]] = {0: []}
    for node in range(1, len(tree)):
        parent = tree.parents[node]
        if parent in ways and typical[parent, tree.tokens[node]]:
            ways[node] = [*ways[parent], node]
    path = max(ways.values(), key=len)
    last = path[-1] if path else 0
    return path, int(torch.multinomial(chances[last] * typical[last], 1))
