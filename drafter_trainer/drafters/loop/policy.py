"""The best draft length: the expected number of accepted tokens, against the time of verification.

Decoding yields R tokens per millisecond. The i-th token of a draft is accepted with probability P_i, the product of
the probabilities of the tokens up to it. A draft of k tokens yields 1 + ΣP_i tokens in a verification pass over k + 1
tokens. The best k maximizes 1 + ΣP_i - R · time(k + 1): a longer draft must yield more tokens than decoding yields
elsewhere in the same time.
"""

from collections.abc import Sequence

import numpy as np

_PRIOR_TOKENS = 6.0
_CORRECTION = (0.3, 1.5)
_MOST_CERTAIN = 0.995
_SMOOTHING = 0.15
_RATE_PRIOR_ROUNDS = 4.0
_GAIN_PRIOR_ASKS = 8.0


class CostModel:
    """The milliseconds of one target pass, by its number of tokens: entry n is a pass over n + 1 tokens.

    More tokens can take less time: kernels for two or three rows are often slower than those for eight.
    """

    def __init__(self, milliseconds: Sequence[float]) -> None:
        self.milliseconds = np.array(milliseconds, dtype=float)

    @property
    def longest(self) -> int:
        """Number of tokens of the longest timed pass."""
        return len(self.milliseconds)

    def __call__(self, tokens: int) -> float:
        """Return the milliseconds of a pass over 1 token or more."""
        return float(self.milliseconds[min(tokens, self.longest) - 1])

    def observe(self, tokens: int, milliseconds: float) -> None:
        """Learn from a timed pass.

        The whole curve moves by a part of the error, and the entry by as much again: a busy machine changes all
        entries, another machine changes the shape of the curve.
        """
        entry = min(tokens, self.longest) - 1
        # The time of an interrupted pass says nothing about the next pass.
        error = np.clip(milliseconds / self.milliseconds[entry], 0.25, 4.0)
        self.milliseconds *= error ** (_SMOOTHING / 2)
        self.milliseconds[entry] *= error ** (_SMOOTHING / 2)


class AcceptanceEstimator:
    """The probability that a source's token is accepted, learned while drafting.

    The calibration states the probability by source and bin, for texts similar to those of tuning. The tokens accepted
    in this completion correct it.
    """

    def __init__(self, calibration: dict[str, Sequence[float]]) -> None:
        self._calibration = calibration
        self._expected = dict.fromkeys(calibration, 0.0)
        self._accepted = dict.fromkeys(calibration, 0.0)

    def probability(self, source: str, bin_: int) -> float:
        """Return the probability that the target accepts the token."""
        ratio = (self._accepted[source] + _PRIOR_TOKENS) / (self._expected[source] + _PRIOR_TOKENS)
        correction = min(max(ratio, _CORRECTION[0]), _CORRECTION[1])
        return min(self._calibration[source][bin_] * correction, _MOST_CERTAIN)

    def observe(self, source: str, bin_: int, accepted: bool) -> None:
        """Learn from a token that the target accepted or rejected."""
        self._expected[source] += self._calibration[source][bin_]
        self._accepted[source] += accepted


class RatioEstimator:
    """A ratio of two sums over one completion, which starts from an expected ratio and has a lower bound."""

    def __init__(self, numerator: float, denominator: float, least: float = 0.0) -> None:
        self._numerator, self._denominator, self._least = numerator, denominator, least

    def __call__(self) -> float:
        """Return the ratio."""
        return max(self._numerator / self._denominator, self._least)

    def observe(self, numerator: float, denominator: float) -> None:
        """Add a round to both sums."""
        self._numerator += numerator
        self._denominator += denominator


def network_gain(tokens: float) -> RatioEstimator:
    """Return an estimator of the accepted tokens that the network adds each time that it drafts."""
    return RatioEstimator(_GAIN_PRIOR_ASKS * tokens, _GAIN_PRIOR_ASKS)


def throughput(tokens_per_pass: float, curve: CostModel, least: float = 0.0) -> RatioEstimator:
    """Return an estimator of the throughput R, in tokens per millisecond of the cost model.

    The lower bound may be the throughput without drafts: slow drafts must not make the next ones seem to pay.
    """
    milliseconds = curve(max(2, round(tokens_per_pass) + 1))
    return RatioEstimator(_RATE_PRIOR_ROUNDS * tokens_per_pass, _RATE_PRIOR_ROUNDS * milliseconds, least)


def best_length(reach: Sequence[float], longest: int, curve: CostModel, rate: float, shortest: int = 0) -> int:
    """Return the length k that maximizes ΣP_i - R · time(k + 1), for P_i in `reach`.

    k exceeds the number of drafted tokens if a pass over more tokens is faster.
    """
    worth = np.cumsum([0.0, *reach, *[0.0] * (longest - len(reach))])
    lengths = range(shortest, longest + 1)
    return max(lengths, key=lambda length: worth[length] - rate * curve(length + 1))


def least_reach(length: int, longest: int, curve: CostModel, rate: float) -> float:
    """Return the least P of the last token with which a draft of `length` tokens can gain by growing.

    No later token is more likely than the last token. So a longer draft pays only if it would pay with this P for each
    additional token.
    """
    more = range(1, max(longest - length, 1) + 1)
    return min(rate * (curve(length + count + 1) - curve(length + 1)) / count for count in more)


def extension_pays(
    length: int, longest: int, reached: float, probability: float, curve: CostModel, rate: float
) -> bool:
    """Return whether more tokens are worth their time, after a draft that is accepted with probability `reached`.

    Each further token is assumed to be accepted with `probability`. Call this before sampling: sampled tokens stay.
    """
    worth = 0.0
    for more in range(1, longest - length + 1):
        worth += reached * probability**more
        if worth > rate * (curve(length + more + 1) - curve(length + 1)):
            return True
    return False
