"""Medusa: heads on the target's last hidden state, each of which predicts a later token.

Source: Cai et al., "Medusa: Simple LLM Inference Acceleration Framework with Multiple Decoding Heads" (arXiv
2401.10774), Medusa-1, which does not change the target. Here the heads have no projection to the vocabulary of their
own: they use the target's head.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from benchmarks.baselines.decoding import TreeDecoding
from benchmarks.baselines.tree import Tree

_THRESHOLD = 0.09  # ε and δ of the paper's typical acceptance, as its code sets them
_ENTROPY_FACTOR = 0.3


class MedusaHeads(torch.nn.Module):
    """Heads that predict the hidden states of later positions: x + SiLU(W_k x + b_k) for head k.

    They are initialized as the identity, so that each head first predicts the same as the target's head.
    """

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(heads))
        for parameter in self.parameters():
            torch.nn.init.zeros_(parameter)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Compute the heads' states.

        Args:
            hidden (`torch.Tensor` of shape `(..., width)`): Input of the target's head.
        Returns:
            `torch.Tensor` of shape `(heads, ..., width)`.
        """
        return torch.stack([hidden + F.silu(layer(hidden)) for layer in self.layers])


class MedusaDecoding(TreeDecoding):
    """Decoding with Medusa heads and a static tree: exact if greedy; sampling uses typical acceptance and is lossy.

    Args:
        heads (`MedusaHeads`): The heads, on the target's device and in its dtype.
        head_weight (`torch.Tensor` of shape `(draft vocabulary, width)`): Rows of the target's head.
        draft_ids (`torch.Tensor` of shape `(draft vocabulary,)`): The ids of these rows.
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
        """Accept nodes; in sampling, by typical acceptance."""
        return accept_typical(tree, scores) if self.sampling else super().accept(tree, scores)


def accept_typical(tree: Tree, scores: torch.Tensor) -> tuple[list[int], int]:
    """Accept the longest path of typical tokens, which does not keep the target's distribution.

    A token is typical if p(x) > min(ε, δ exp(-H(p))). The token after the accepted ones is drawn from the typical
    tokens.

    Args:
        scores (`torch.Tensor` of shape `(nodes, vocabulary)`): Unnormalized p after each node.
    Returns:
        `tuple` of the accepted nodes, in order, and the token that follows them.
    Source: arXiv 2401.10774, section 2.3.1; there the first token of each round is the target's most likely token,
        which would make the whole output deterministic; here it is drawn, as with an option of the paper's code
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
