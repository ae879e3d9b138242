"""Lookahead decoding: the target drafts for itself, from what it would say behind guesses that it never accepts.

Source: Fu et al., "Break the Sequential Dependency of LLM Inference Using Lookahead Decoding" (arXiv 2402.02057). The
pool of n-grams is filled from Jacobi trajectories alone, not from the prompt; each text begins with an empty one.
"""

import random

import torch
from transformers import PreTrainedModel

from benchmarks.baselines.decoding import TreeDecoding
from benchmarks.baselines.tree import Tree


class LookaheadDecoding(TreeDecoding):
    """Decode with n-grams out of Jacobi trajectories.

    Beside the drafts a pass reads a window of guesses: `ngram - 1` rows of `window` columns, of which row r, column c
    stands r + c tokens behind the last known one. The first row is read as one text; what stands in another is read
    behind the first row up to its column, and behind that column down to its own row. What the target says behind the
    last row is the new last row, the first one goes, and each column gives an n-gram.

    Args:
        ngram (`int`): N, tokens of an n-gram: a first one, and N - 1 that are drafted behind it.
        guesses (`int`): G, n-grams with one and the same first token that are kept and tried, the latest.
    """

    def __init__(self, window: int, ngram: int, guesses: int) -> None:
        super().__init__()
        self.draft_length = ngram - 1
        self._window, self._guesses = window, guesses

    def start(self, target_model: PreTrainedModel, prompt: list[int]) -> None:
        """Begin with an empty pool and a window of the prompt's tokens, by chance, the same in each run."""
        chance = random.Random(0)
        self._rows = [chance.choices(prompt, k=self._window) for _ in range(self.draft_length)]
        self._pool: dict[int, dict[tuple[int, ...], None]] = {}
        self._ends: list[int] = []

    def draft(self, known: list[int], longest: int) -> Tree:
        """Draft the pool's n-grams behind the last token, and let the window be read along."""
        tree, self._ends = Tree(known[-1]), []
        if longest < 1:
            return tree
        for ngram in reversed(self._pool.get(known[-1], {})):
            node = 0
            for token in ngram[:longest]:
                same = [child for child in tree.children[node] if tree.tokens[child] == token]
                node = same[0] if same else tree.add(token, node)
        self._rows[0][0] = known[-1]
        nodes = [0]
        for token in self._rows[0][1:]:
            nodes.append(tree.add(token, nodes[-1], offered=False))
        for row in self._rows[1:]:
            nodes = [tree.add(token, node, offered=False) for token, node in zip(row, nodes)]
        self._ends = nodes
        return tree

    def look(self, tree: Tree, logits: torch.Tensor) -> None:
        """Add the window's n-grams to the pool, and let the window move on."""
        if not self._ends:
            return
        self._rows.append(logits[self._ends].argmax(dim=-1).tolist())
        for first, *ngram in zip(*self._rows):
            pool = self._pool.setdefault(first, {})
            pool.pop(tuple(ngram), None)  # the latest stand last
            pool[tuple(ngram)] = None
            if len(pool) > self._guesses:
                del pool[next(iter(pool))]
        del self._rows[0]
