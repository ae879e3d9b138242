"""What a step of an engine takes, learned from the clock."""

from collections.abc import Sequence

import numpy as np

_MEMORY = 0.98  # the weight that an observation keeps with each later one
_PRIOR_WEIGHT = 0.1
_LEVEL_SMOOTHING = 0.2
_FARTHEST = 2.0  # times more or less than expected; a step that was interrupted says nothing of the next


class StepCosts:
    """The time of a step as a line in the number of tokens that it reads.

    An engine verifies the drafts of all requests at once, so what a token more costs depends on the batch and on the
    engine, not on what a single sequence took in transformers. The line is fitted to the latest steps by least
    squares; two observations of the stored line, moved to the level of the latest steps, go in with them. They decide
    the slope as long as all steps read equally many tokens, and again when those that did not are forgotten.

    Args:
        milliseconds (`Sequence[float]`): Stored times; entry n is a step over n + 1 tokens.
    """

    def __init__(self, milliseconds: Sequence[float]) -> None:
        first, last, tokens = milliseconds[0], milliseconds[-1], len(milliseconds)
        slope = max((last - first) / max(tokens - 1, 1), 1e-4 * first)
        self._stored = np.array([first - slope, slope])  # at no token, and for each
        self._ends = np.array([[1.0, 1.0], [1.0, float(max(tokens, 2))]])
        self._level: float | None = None
        self._products, self._targets = np.zeros((2, 2)), np.zeros(2)
        self._line = self._stored

    @property
    def slope(self) -> float:
        """Milliseconds of one token more."""
        return float(self._line[1])

    def __call__(self, tokens: float) -> float:
        """Return the milliseconds of a step over so many tokens."""
        return float(self._line[0] + self._line[1] * tokens)

    def observe(self, tokens: int, milliseconds: float) -> None:
        """Learn from a step that was timed."""
        row = np.array([1.0, float(tokens)])
        level = milliseconds / float(row @ self._stored)
        if self._level is None:
            self._level = level
            self._line = level * self._stored
        expected = self(tokens)
        milliseconds = min(max(milliseconds, expected / _FARTHEST), expected * _FARTHEST)
        self._level += _LEVEL_SMOOTHING * (milliseconds / float(row @ self._stored) - self._level)
        self._products = _MEMORY * self._products + np.outer(row, row)
        self._targets = _MEMORY * self._targets + row * milliseconds
        prior = _PRIOR_WEIGHT * self._ends.T @ self._ends
        stored = prior @ (self._level * self._stored)
        fixed, slope = np.linalg.solve(self._products + prior, self._targets + stored)
        # Noise must not make tokens free, nor a step cost less than nothing.
        self._line = np.array([max(fixed, 0.0), max(slope, 1e-4 * milliseconds)])
