"""Speedups and their intervals."""

import numpy as np
import pytest

from drafter_trainer.benchmark.statistics import paper_script_ratio, slower_share, speedup


def test_speedup_is_total_over_total() -> None:
    """A mean of ratios would let short prompts weigh as much as long ones."""
    tokens, seconds = np.array([100.0, 10.0]), np.array([5.0, 2.0])
    plain_tokens, plain_seconds = np.array([100.0, 10.0]), np.array([10.0, 1.0])
    value = speedup(tokens, seconds, plain_tokens, plain_seconds).value
    assert value == pytest.approx((110 / 7) / (110 / 11))
    assert slower_share(tokens, seconds, plain_tokens, plain_seconds) == 0.5


def test_method_equal_to_plain_is_exactly_one() -> None:
    """Pairing must cancel what prompts have in common, however much they differ."""
    tokens, seconds = np.array([5.0, 90.0, 31.0]), np.array([0.3, 7.0, 2.2])
    interval = speedup(tokens, seconds, tokens, seconds)
    assert (interval.value, interval.low, interval.high) == (1.0, 1.0, 1.0)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    """An interval that is too narrow would call noise a difference."""
    random = np.random.default_rng(1)
    truth = 1 / np.mean(1 / (1.5 + 0.3 * random.standard_normal(1_000_000)).clip(0.5))
    covered = 0
    for _ in range(200):
        plain_seconds = random.gamma(9, 1 / 9, size=60)
        seconds = plain_seconds / (1.5 + 0.3 * random.standard_normal(60)).clip(0.5)
        tokens = np.full(60, 40.0)
        interval = speedup(tokens, seconds, tokens, plain_seconds)
        covered += interval.low <= truth <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


def test_paper_script_counts_the_baseline_otherwise() -> None:
    """The published ratio of a method that changes nothing is above 1; ours must not be."""
    tokens, seconds = np.array([20.0, 40.0]), np.array([2.0, 4.0])
    assert paper_script_ratio(tokens, seconds, tokens - 1, seconds) == pytest.approx(10 / ((9.5 + 9.75) / 2))
    assert speedup(tokens, seconds, tokens, seconds).value == 1.0
