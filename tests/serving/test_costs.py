"""What a step takes, as it is learned."""

import pytest

from drafter_trainer.serving.batch import LinearCostModel

STORED = [10.0 + 0.5 * tokens for tokens in range(1, 18)]  # a token more takes a twentieth of the first


def learned(slope: float, steps: int) -> LinearCostModel:
    """Observe steps of one to nine tokens that take 40 ms, and so much more for each token."""
    costs = LinearCostModel(STORED)
    for step in range(steps):
        costs.observe(1 + step % 9, 40.0 + slope * (1 + step % 9))
    return costs


def test_costs_move_to_the_engines_level() -> None:
    """Stored times are another machine's: steps that all read one token tell the level, and keep the stored shape."""
    costs = LinearCostModel(STORED)
    for _ in range(100):
        costs.observe(1, 100.0)
    assert costs(1) == pytest.approx(100.0, rel=0.01)
    assert costs.slope == pytest.approx(100.0 * 0.5 / 10.5, rel=0.05)


def test_slope_is_the_measured_one() -> None:
    """An engine where tokens are dearer or cheaper than stored must be drafted for with its own price."""
    for slope in (0.05, 6.0):
        costs = learned(slope, 200)
        assert costs.slope == pytest.approx(slope, abs=0.2)
        assert costs(5) == pytest.approx(40.0 + 5 * slope, rel=0.02)


def test_dear_tokens_are_tried_again() -> None:
    """One slow minute would stop drafting for ever: without drafts no step tells that tokens have become cheap."""
    costs = learned(40.0, 50)
    assert costs.slope > 20
    for _ in range(600):
        costs.observe(1, 40.0)
    assert costs.slope < 3


def test_interrupted_step_hardly_counts() -> None:
    """A second of another process must not end drafting."""
    costs = learned(1.0, 60)
    before = costs(9)
    costs.observe(9, 10_000.0)
    assert costs(9) < 1.2 * before
