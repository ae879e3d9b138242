"""Speedups, their intervals and verdicts, and the module of `evaluate`."""

from pathlib import Path

import evaluate
import numpy as np
import pytest

from drafter_trainer.benchmark import acceptance as package
from drafter_trainer.benchmark.statistics import (
    Interval,
    Timings,
    Verdict,
    paper_script_ratio,
    slower_share,
    speedup,
    speedup_ratio,
    verdict,
)
from drafter_trainer.decoding.metrics import Round, acceptance_by_position, acceptance_rate, alpha


def timed(tokens: list[float] | np.ndarray, seconds: list[float] | np.ndarray) -> Timings:
    return Timings(np.array(tokens, dtype=float), np.array(seconds, dtype=float))


def test_speedup_is_total_over_total() -> None:
    """A mean of ratios would let short prompts weigh as much as long ones."""
    method, plain = timed([100, 10], [5, 2]), timed([100, 10], [10, 1])
    assert speedup(method, plain).value == pytest.approx((110 / 7) / (110 / 11))
    assert slower_share(method, plain) == 0.5


def test_interval_covers_the_truth_at_its_level() -> None:
    """An interval that is too narrow would report noise as a difference."""
    random = np.random.default_rng(1)
    truth = 1 / np.mean(1 / (1.5 + 0.3 * random.standard_normal(1_000_000)).clip(0.5))
    covered = 0
    for _ in range(200):
        plain_seconds = random.gamma(9, 1 / 9, size=60)
        seconds = plain_seconds / (1.5 + 0.3 * random.standard_normal(60)).clip(0.5)
        tokens = np.full(60, 40.0)
        interval = speedup(Timings(tokens, seconds), Timings(tokens, plain_seconds))
        covered += interval.low <= truth <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


def test_interval_of_two_prompts_by_hand() -> None:
    """A resample of two prompts has both, or one of them twice: the interval ends at their own ratios."""
    method, plain = timed([10, 10], [1, 2]), timed([10, 10], [2, 10])
    interval = speedup(method, plain)
    assert (interval.low, interval.value, interval.high) == pytest.approx((2, 12 / 3, 5))


def test_ratio_of_speedups_takes_the_machine_out() -> None:
    """A machine that is half as fast in the second run slows plain decoding too; the speedup is the same."""
    same = timed([5, 90, 31], [0.3, 7.0, 2.2])
    assert speedup(same, same) == speedup_ratio(same, same, same, same) == Interval(1.0, 1.0, 1.0)
    tokens, plain, method = [10, 20, 40], [1, 2, 5], [0.5, 1.5, 2]
    before = (timed(tokens, method), timed(tokens, plain))
    after = (timed(tokens, [2 * second for second in method]), timed(tokens, [2 * second for second in plain]))
    ratio = speedup_ratio(*after, *before)
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((1, 1, 1))
    faster = timed(tokens, [second / 1.25 for second in method])
    ratio = speedup_ratio(faster, before[1], *before)
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((1.25, 1.25, 1.25))


@pytest.mark.parametrize(
    ("interval", "prompts", "expected"),
    [
        (Interval(1.2, 1.01, 1.4), 8, Verdict.FASTER),
        (Interval(1.2, 1.0, 1.4), 8, Verdict.NOISE),
        (Interval(0.9, 0.8, 1.0), 8, Verdict.NOISE),
        (Interval(0.9, 0.8, 0.99), 8, Verdict.SLOWER),
        (Interval(1.2, 1.1, 1.4), 7, Verdict.TOO_FEW),
    ],
)
def test_verdict_by_the_interval(interval: Interval, prompts: int, expected: Verdict) -> None:
    """An interval that contains 1, or is over few prompts, decides nothing."""
    assert verdict(interval, prompts) is expected


def test_paper_script_counts_the_baseline_differently() -> None:
    """With the paper's script, a method that changes nothing has a ratio above 1; the speedup must be 1."""
    plain = timed([20, 40], [2, 4])
    assert paper_script_ratio(plain, timed([19, 39], [2, 4])) == pytest.approx(10 / ((9.5 + 9.75) / 2))
    assert speedup(plain, plain).value == 1.0


ROUNDS = [Round(4, 4, False), Round(4, 1, True), Round(4, 0, True), Round(0, 0, False)]
COLUMNS = {name: [getattr(round_, name) for round_ in ROUNDS] for name in ("drafted", "accepted", "rejected")}


def test_metrics_are_the_packages_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two definitions of one metric diverge."""
    for name in ("HF_EVALUATE_CACHE", "HF_METRICS_CACHE"):  # not the user's
        monkeypatch.setattr(f"evaluate.config.{name}", str(tmp_path / name))
    monkeypatch.setattr("evaluate.loading.cached_path", None)  # fail if something is downloaded
    found = evaluate.load(str(Path(package.__file__).parent), keep_in_memory=True).compute(**COLUMNS)
    assert found == {
        "acceptance_rate": acceptance_rate(ROUNDS),
        "alpha": alpha(ROUNDS),
        "mean_accepted_tokens": 9 / 4,  # five accepted tokens, and one of the target in each of four rounds
        "acceptance_by_position": acceptance_by_position(ROUNDS),
    }
