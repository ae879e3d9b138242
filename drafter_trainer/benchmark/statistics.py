"""Ratios of speeds over prompts, their bootstrap intervals, and verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

_RESAMPLES = 2000
FEWEST_PROMPTS = 8  # the bootstrap intervals of fewer prompts are too narrow


@dataclass(frozen=True)
class Timings:
    """Tokens and seconds of one method, prompt by prompt.

    Args:
        tokens (`np.ndarray` of shape `(prompts,)`): Number of new tokens of each completion.
        seconds (`np.ndarray` of shape `(prompts,)`): Time of each completion.
    """

    tokens: np.ndarray
    seconds: np.ndarray

    @classmethod
    def from_prompts(cls, prompts: Sequence[dict[str, Any]]) -> "Timings":
        """Read the timings of a method's prompts in `results.json`."""
        return cls(*(np.array([prompt[key] for prompt in prompts], dtype=np.float64) for key in ("tokens", "seconds")))

    def of(self, chosen: np.ndarray) -> "Timings":
        """Return the timings of some prompts, by index or mask; a two-dimensional index gives one row per resample."""
        return Timings(self.tokens[chosen], self.seconds[chosen])

    def total_speed(self) -> np.ndarray:
        """Compute total tokens / total seconds along the last axis."""
        return self.tokens.sum(axis=-1) / self.seconds.sum(axis=-1)

    def speeds(self) -> np.ndarray:
        """Compute the tokens per second of each prompt."""
        return self.tokens / self.seconds


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


class Verdict(StrEnum):
    """The conclusion from a ratio of speeds."""

    FASTER = "faster"
    SLOWER = "slower"
    NOISE = "within noise"
    TOO_FEW = "too few questions"


def speedup(method: Timings, plain: Timings) -> Interval:
    """Compute the ratio of the total speeds of two methods, with a paired bootstrap over prompts.

    Args:
        plain (`Timings`): Timings of plain decoding, or of another method, on the same prompts in the same order.
    Source: Efron, "Bootstrap methods: another look at the jackknife" (1979), percentile interval
    """
    chosen = resamples(len(method.tokens))
    values = method.of(chosen).total_speed() / plain.of(chosen).total_speed()
    return interval(method.total_speed() / plain.total_speed(), values)


def speedup_ratio(method: Timings, plain: Timings, other_method: Timings, other_plain: Timings) -> Interval:
    """Compute the ratio of two speedups that were measured in different runs.

    Each method is divided by the plain decoding of its own run, so a slower machine cancels out.

    Args:
        method, plain, other_method, other_plain (`Timings`): Timings on the same prompts in the same order.
    Returns:
        `Interval` of (speedup of `method` over `plain`) / (speedup of `other_method` over `other_plain`).
    """
    chosen = resamples(len(method.tokens))
    speed, plain_speed, other_speed, other_plain_speed = (
        np.append(each.of(chosen).total_speed(), each.total_speed())
        for each in (method, plain, other_method, other_plain)
    )
    ratios = (speed / plain_speed) / (other_speed / other_plain_speed)
    return interval(ratios[-1], ratios[:-1])


def verdict(ratio: Interval, prompts: int) -> Verdict:
    """Return the conclusion from a ratio of speeds; fewer than eight prompts are too few for one."""
    if prompts < FEWEST_PROMPTS:
        return Verdict.TOO_FEW
    if ratio.low > 1:
        return Verdict.FASTER
    return Verdict.SLOWER if ratio.high < 1 else Verdict.NOISE


def slower_share(method: Timings, plain: Timings) -> float:
    """Compute the share of prompts that are slower than with plain decoding."""
    return float((method.speeds() / plain.speeds() < 1).mean())


def paper_script_ratio(method: Timings, plain_retokenized: Timings) -> float:
    """Compute the speedup as `speed.py` of arXiv 2406.16758 (and Spec-Bench) does, to compare with published numbers.

    The script divides the means of per-prompt speeds. It counts the baseline's tokens by tokenizing the text of its
    completion again, minus one, so for a completion of n tokens its ratio is about (n + 1) / n too high.

    Args:
        plain_retokenized (`Timings`): Plain decoding, with `len(tokenizer(completion).input_ids) - 1` as tokens.
    """
    return float(method.speeds().mean() / plain_retokenized.speeds().mean())


def resamples(prompts: int) -> np.ndarray:
    """Draw the prompts of each bootstrap resample, with a fixed seed.

    Returns:
        `np.ndarray` of shape `(resamples, prompts)`, indices.
    """
    return np.random.default_rng(0).integers(prompts, size=(_RESAMPLES, prompts))


def interval(value: float, resampled: np.ndarray) -> Interval:
    """Return a figure with its percentile interval.

    Args:
        resampled (`np.ndarray` of shape `(resamples,)`): The figure of each resample.
    """
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(float(value), float(low), float(high))
