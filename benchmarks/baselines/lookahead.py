"""Lookahead decoding: the target drafts for itself, from its own predictions after unverified tokens.

Source: Fu et al., "Break the Sequential Dependency of LLM Inference Using Lookahead Decoding" (arXiv 2402.02057). The
pool of n-grams is filled from Jacobi trajectories only, not from the prompt, and is empty at the start of a text.
"""

import random

import torch
from transformers import PreTrainedModel

from benchmarks.baselines.decoding import TreeDecoding
from benchmarks.baselines.tree import Tree


class LookaheadDecoding(TreeDecoding):
    """Decoding with n-grams from Jacobi trajectories.

    In addition to the drafts, a pass reads a window of unverified tokens: `ngram - 1` rows of `window` columns. The
    token in row r and column c has the position r + c after the last verified token. The first row is read as one
    text. A token in another row follows the first row up to its column, and then its column down to its own row. The
    target's predictions after the last row become the new last row, the first row is removed, and each column gives an
    n-gram.

    Args:
        ngram (`int`): N, tokens of an n-gram: a first token, and N - 1 tokens that are drafted after it.
        guesses (`int`): G, the maximum number of stored n-grams with the same first token; the latest are kept.
    """

    def __init__(self, window: int, ngram: int, guesses: int) -> None:
        super().__init__()
        self.draft_length = ngram - 1
        self._window, self._guesses = window, guesses

    def start(self, target_model: PreTrainedModel, prompt: list[int]) -> None:
        """Start with an empty pool and a window of random tokens of the prompt, the same in each run."""
        chance = random.Random(0)
        self._rows = [chance.choices(prompt, k=self._window) for _ in range(self.draft_length)]
        self._pool: dict[int, dict[tuple[int, ...], None]] = {}
        self._ends: list[int] = []

    def draft(self, known: list[int], longest: int) -> Tree:
        """Draft the pool's n-grams after the last token, and add the window to the tree."""
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
        """Add the window's n-grams to the pool, and advance the window."""
        if not self._ends:
            return
        self._rows.append(logits[self._ends].argmax(dim=-1).tolist())
        for first, *ngram in zip(*self._rows):
            pool = self._pool.setdefault(first, {})
            pool.pop(tuple(ngram), None)  # the latest n-grams are last
            pool[tuple(ngram)] = None
            if len(pool) > self._guesses:
                del pool[next(iter(pool))]
        del self._rows[0]
