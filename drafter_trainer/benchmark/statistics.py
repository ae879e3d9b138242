"""Ratios of speeds over prompts, how sure they are, and what may be said of them."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

_RESAMPLES = 2000
FEWEST_PROMPTS = 8  # a bootstrap over fewer finds intervals that are too narrow


@dataclass(frozen=True)
class Timings:
    """Tokens and seconds of one method, prompt by prompt.

    Args:
        tokens (`np.ndarray` of shape `(prompts,)`): New tokens of each answer.
        seconds (`np.ndarray` of shape `(prompts,)`): Time that each answer took.
    """

    tokens: np.ndarray
    seconds: np.ndarray

    def of(self, chosen: np.ndarray) -> "Timings":
        """Return the timings of some prompts, by index or mask; an array of indices gives one row a resample."""
        return Timings(self.tokens[chosen], self.seconds[chosen])

    def total_speed(self) -> np.ndarray:
        """Compute tokens/s, totals over totals along the last axis."""
        return self.tokens.sum(axis=-1) / self.seconds.sum(axis=-1)

    def speeds(self) -> np.ndarray:
        return self.tokens / self.seconds


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


class Verdict(StrEnum):
    """What a ratio of speeds shows, in words."""

    FASTER = "faster"
    SLOWER = "slower"
    NOISE = "within noise"
    TOO_FEW = "too few questions"


def speedup(method: Timings, plain: Timings) -> Interval:
    """Compute how many times as fast a method is, totals over totals, with a paired bootstrap over prompts.

    Args:
        plain (`Timings`): Of plain decoding, or of any other method, on the same prompts in the same order.
    Source: Efron, "Bootstrap methods: another look at the jackknife" (1979), percentile interval
    """
    chosen = resamples(len(method.tokens))
    values = method.of(chosen).total_speed() / plain.of(chosen).total_speed()
    return interval(method.total_speed() / plain.total_speed(), values)


def speedup_ratio(method: Timings, plain: Timings, other_method: Timings, other_plain: Timings) -> Interval:
    """Compute how many times another speedup one is, where each was measured in a run of its own.

    Each method is held against the plain decoding of its own run first, so that a machine that was slower that day
    cancels. All four are resampled by the same prompts.

    Args:
        method, plain, other_method, other_plain (`Timings`): On the same prompts in the same order.
    Returns:
        `Interval` of (speedup of `method` over `plain`) / (speedup of `other_method` over `other_plain`).
    """
    chosen = resamples(len(method.tokens))
    speed, without, other_speed, other_without = (
        np.append(each.of(chosen).total_speed(), each.total_speed())
        for each in (method, plain, other_method, other_plain)
    )
    ratios = (speed / without) / (other_speed / other_without)
    return interval(ratios[-1], ratios[:-1])


def median_ratio(method: Timings, plain: Timings) -> Interval:
    """Compute the median of the prompts' own ratios of tokens/s, with a bootstrap over prompts.

    Totals weigh a prompt by its time; here each weighs the same, and a few extreme ones move nothing.
    """
    ratios = method.speeds() / plain.speeds()
    return interval(np.median(ratios), np.median(ratios[resamples(len(ratios))], axis=-1))


def verdict(ratio: Interval, prompts: int) -> Verdict:
    """Say what a ratio of speeds over some prompts shows; of fewer than eight nothing is said."""
    if prompts < FEWEST_PROMPTS:
        return Verdict.TOO_FEW
    if ratio.low > 1:
        return Verdict.FASTER
    if ratio.high < 1:
        return Verdict.SLOWER
    return Verdict.NOISE


def slower_share(method: Timings, plain: Timings) -> float:
    return float((method.speeds() / plain.speeds() < 1).mean())


def paper_script_ratio(method: Timings, plain_retokenised: Timings) -> float:
    """Compute the speedup as `speed.py` published with arXiv 2406.16758 (and Spec-Bench) does.

    A mean of per-prompt speeds over another one, the baseline's tokens counted by tokenizing its answer's text anew,
    less one: for an answer of n tokens about (n + 1) / n too high. It stands beside the speedup for comparison with
    published numbers alone.

    Args:
        plain_retokenised (`Timings`): Of plain decoding, with `len(tokenizer(answer).input_ids) - 1` for its tokens.
    """
    return float(method.speeds().mean() / plain_retokenised.speeds().mean())


def resamples(prompts: int) -> np.ndarray:
    """Draw the prompts of each resample, the same ones at every call.

    Returns:
        `np.ndarray` of shape `(resamples, prompts)`, indices.
    """
    return np.random.default_rng(0).integers(prompts, size=(_RESAMPLES, prompts))


def interval(value: float, resampled: np.ndarray) -> Interval:
    """Put a figure together with its percentile interval.

    Args:
        resampled (`np.ndarray` of shape `(resamples,)`): Over those of each resample.
    """
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(float(value), float(low), float(high))
