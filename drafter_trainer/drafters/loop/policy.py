"""How long a draft pays: what each source is worth, against what the machine takes for each length.

Decoding runs at some rate R, in tokens a millisecond. A draft of k tokens, the i-th of which stands in the output with
probability P_i (the product of the probabilities up to it), yields 1 + ΣP_i tokens for a pass over k + 1 tokens. It
is worth 1 + ΣP_i - R · time(k + 1), and the best k is the one that is worth most: a longer draft must yield more than
the machine yields elsewhere in the same time.
"""

from collections.abc import Sequence
from operator import itemgetter

import numpy as np

from .proposal import Proposal

LOOKUP, NGRAM, NETWORK = SOURCES = ("lookup", "ngram", "network")
MEMORY = "memory"  # of completions, where the caller gave one
FILLER = "filler"  # tokens that nobody expects: a pass with them takes less time than one without
_PRIOR_TOKENS = 6.0
_CORRECTION = (0.3, 1.5)
_MOST_CERTAIN = 0.995
_SMOOTHING = 0.15
_RATE_PRIOR_ROUNDS = 4.0
_GAIN_PRIOR_ASKS = 8.0


class CostModel:
    """The time of one target pass, by its number of tokens.

    More tokens can take less time: kernels for two or three rows are often poorer than those for eight.

    Args:
        milliseconds (`Sequence[float]`): Entry n is a pass over n + 1 tokens.
    """

    def __init__(self, milliseconds: Sequence[float]) -> None:
        self.milliseconds = np.array(milliseconds, dtype=float)

    @property
    def longest(self) -> int:
        """Tokens of the longest pass that is known."""
        return len(self.milliseconds)

    def __call__(self, tokens: int) -> float:
        """Return the milliseconds of a pass over so many tokens, at least 1."""
        return float(self.milliseconds[min(tokens, self.longest) - 1])

    def observe(self, tokens: int, milliseconds: float) -> None:
        """Learn from a pass that was timed.

        The curve keeps its shape and moves as a whole by a part of what it was off, and the entry itself by as much
        again: a machine that is busy moves all entries, one of another kind changes the shape.
        """
        entry = min(tokens, self.longest) - 1
        # A pass that was interrupted says nothing of the next.
        error = np.clip(milliseconds / self.milliseconds[entry], 0.25, 4.0)
        self.milliseconds *= error ** (_SMOOTHING / 2)
        self.milliseconds[entry] *= error ** (_SMOOTHING / 2)


class AcceptanceEstimator:
    """The chance that a source's token is accepted, learned while drafting.

    The calibration says it for texts like those that it was measured on; what became of the source's tokens in this
    answer corrects it.

    Args:
        calibration (`dict[str, Sequence[float]]`): For each source the probability in each of its bins.
    """

    def __init__(self, calibration: dict[str, Sequence[float]]) -> None:
        self._calibration = calibration
        self._expected = dict.fromkeys(calibration, 0.0)
        self._accepted = dict.fromkeys(calibration, 0.0)

    def probability(self, source: str, bin_: int) -> float:
        """Return the probability that the target accepts the token."""
        return min(self._calibration[source][bin_] * self._correction(source), _MOST_CERTAIN)

    def observe(self, source: str, bin_: int, accepted: bool) -> None:
        """Learn what became of a token that the target judged."""
        self._expected[source] += self._calibration[source][bin_]
        self._accepted[source] += accepted

    def _correction(self, source: str) -> float:
        ratio = (self._accepted[source] + _PRIOR_TOKENS) / (self._expected[source] + _PRIOR_TOKENS)
        return min(max(ratio, _CORRECTION[0]), _CORRECTION[1])


def surer_of(
    estimator: AcceptanceEstimator,
    looked_up: tuple[int, int] | None,
    listed: tuple[int, int] | None,
    remembered: tuple[int, int] | None = None,
) -> Proposal | None:
    """Choose between what lookup, n-gram table and memory tell, each a token and its bin: the first of the surest."""
    told = (LOOKUP, looked_up), (NGRAM, listed), (MEMORY, remembered)
    known = [(estimator.probability(source, found[1]), source, found) for source, found in told if found is not None]
    if not known:
        return None
    probability, source, (token, bin_) = max(known, key=itemgetter(0))
    return Proposal(token, source, probability, bin_)


class NetworkGain:
    """The tokens that the network gains in one completion, over the other sources.

    Args:
        tokens (`float`): Tokens accepted for each time that it is asked and no other source knows one, on texts like
            those that the drafter was tuned on: where each answer starts from.
    """

    def __init__(self, tokens: float) -> None:
        self._accepted = _GAIN_PRIOR_ASKS * tokens
        self._asked = _GAIN_PRIOR_ASKS

    def __call__(self) -> float:
        """Return the tokens."""
        return self._accepted / self._asked

    def observe(self, asked: float, accepted: int) -> None:
        """Count a round: how often it was asked, each time by how likely its token was to be needed."""
        self._asked += asked
        self._accepted += accepted


class ThroughputEstimator:
    """The throughput R of one completion, in tokens per millisecond of the cost model.

    Args:
        tokens_per_pass (`float`): What a pass yields on texts like those that the drafter was tuned on: where each
            answer starts from.
        least (`float`, *optional*, defaults to `0.0`): It is never below this, such as what passes without a draft
            give: where drafts brought less, the next must not be judged by them.
    """

    def __init__(self, tokens_per_pass: float, curve: CostModel, least: float = 0.0) -> None:
        self._tokens = _RATE_PRIOR_ROUNDS * tokens_per_pass
        self._milliseconds = _RATE_PRIOR_ROUNDS * curve(max(2, round(tokens_per_pass) + 1))
        self._least = least

    def __call__(self) -> float:
        """Return R."""
        return max(self._tokens / self._milliseconds, self._least)

    def observe(self, tokens: int, milliseconds: float) -> None:
        """Count a round."""
        self._tokens += tokens
        self._milliseconds += milliseconds


def best_length(reach: Sequence[float], longest: int, curve: CostModel, rate: float, shortest: int = 0) -> int:
    """Choose how many tokens are verified.

    Args:
        reach (`Sequence[float]`): P_i, the probability that the output reaches past token i of the draft.
        longest (`int`): Greatest length. One beyond the draft is chosen where a pass over more tokens takes less time.
    Returns:
        `int`, the length k that maximises ΣP_i - R · time(k + 1).
    """
    worth = np.cumsum([0.0, *reach, *[0.0] * (longest - len(reach))])
    lengths = range(shortest, longest + 1)
    return max(lengths, key=lambda length: worth[length] - rate * curve(length + 1))


def least_reach(length: int, longest: int, curve: CostModel, rate: float) -> float:
    """Return the probability below which a draft cannot gain by growing beyond `length`.

    None of the tokens to come is likelier to be reached than the last, so some longer draft must pay at that
    probability for each of its tokens.
    """
    prices = [
        rate * (curve(length + more + 1) - curve(length + 1)) / more for more in range(1, max(longest - length, 1) + 1)
    ]
    return min(prices)


def extension_pays(
    length: int, longest: int, reached: float, probability: float, curve: CostModel, rate: float
) -> bool:
    """Tell whether a draft gains by tokens that are each accepted with `probability`, before any of them is drawn.

    Args:
        longest (`int`): Tokens that may be drafted.
        reached (`float`): P of the last of them.
        probability (`float`): Of the next one, and taken for those behind it.
    """
    worth = 0.0
    for more in range(1, longest - length + 1):
        worth += reached * probability**more
        if worth > rate * (curve(length + more + 1) - curve(length + 1)):
            return True
    return False
