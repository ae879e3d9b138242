"""Ratios of speeds over prompts, and how sure they are."""

from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """Hold a figure with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def speedup(tokens: np.ndarray, seconds: np.ndarray, plain_tokens: np.ndarray, plain_seconds: np.ndarray) -> Interval:
    """Compute the speedup, totals over totals, with a paired bootstrap over prompts.

    Args:
        tokens, seconds (`np.ndarray` of shape `(prompts,)`): Of the method.
        plain_tokens, plain_seconds (`np.ndarray` of shape `(prompts,)`): Of plain decoding, same prompts in the same
            order.
    Returns:
        `Interval` of (tokens/s with the method) / (tokens/s without).
    Source: Efron, "Bootstrap methods: another look at the jackknife" (1979), percentile interval
    """
    value = _ratio(tokens.sum(), seconds.sum(), plain_tokens.sum(), plain_seconds.sum())
    chosen = np.random.default_rng(0).integers(len(tokens), size=(RESAMPLES, len(tokens)))
    values = _ratio(*(figure[chosen].sum(axis=1) for figure in (tokens, seconds, plain_tokens, plain_seconds)))
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(float(value), float(low), float(high))


def slower_share(
    tokens: np.ndarray, seconds: np.ndarray, plain_tokens: np.ndarray, plain_seconds: np.ndarray
) -> float:
    """Compute the share of prompts that got slower, in tokens/s."""
    return float((_ratio(tokens, seconds, plain_tokens, plain_seconds) < 1).mean())


def paper_script_ratio(
    tokens: np.ndarray, seconds: np.ndarray, plain_retokenised: np.ndarray, plain_seconds: np.ndarray
) -> float:
    """Compute the speedup as `speed.py` published with arXiv 2406.16758 (and Spec-Bench) does.

    A mean of per-prompt speeds over another one, the baseline's tokens counted by tokenizing its answer's text anew,
    less one: for an answer of n tokens about (n + 1) / n too high. It stands beside the speedup for comparison with
    published numbers alone.

    Args:
        plain_retokenised (`np.ndarray` of shape `(prompts,)`): `len(tokenizer(answer).input_ids) - 1`.
    """
    return float((tokens / seconds).mean() / (plain_retokenised / plain_seconds).mean())


def _ratio(tokens, seconds, plain_tokens, plain_seconds):
    return (tokens / seconds) / (plain_tokens / plain_seconds)
