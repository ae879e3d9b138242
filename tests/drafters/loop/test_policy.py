"""How long a draft pays."""

import itertools
import operator
import random

import pytest

from drafter_trainer.drafters.loop.policy import (
    AcceptanceEstimator,
    CostModel,
    best_length,
    extension_pays,
    least_reach,
    throughput,
)
from drafter_trainer.drafters.loop.sources import SOURCES

CURVES = {
    "flat": [10.0] * 9,
    "linear": [10.0 + tokens for tokens in range(9)],
    "steps": [10.0, 10.0, 14.0, 14.0, 14.0, 15.0, 20.0, 20.0, 21.0],
    "poor kernels for few rows": [10.0, 10.0, 16.0, 17.0, 11.0, 11.5, 11.0, 18.0, 12.0],
}


def worth(length: int, reach: list[float], curve: CostModel, rate: float) -> float:
    """Compute ΣP_i - R · time(k + 1) by the book; what nobody drafted is never accepted."""
    return sum(reach[:length]) - rate * curve(length + 1)


@pytest.mark.parametrize("milliseconds", CURVES.values(), ids=CURVES)
def test_best_length_is_the_best_of_all(milliseconds: list[float]) -> None:
    """Prevent drafts that are one token too long or too short."""
    choose, curve = random.Random(0), CostModel(milliseconds)
    fillers = 0
    for _ in range(400):
        longest = choose.randrange(1, 9)
        shortest = choose.randrange(longest + 1)
        drafted = choose.randrange(longest + 1)
        reach = list(itertools.accumulate((choose.random() for _ in range(drafted)), operator.mul))
        rate = choose.choice([0.01, 0.1, 0.2, 0.5, 1.0])
        length = best_length(reach, longest, curve, rate, shortest)
        assert shortest <= length <= longest
        best = max(worth(other, reach, curve, rate) for other in range(shortest, longest + 1))
        assert worth(length, reach, curve, rate) == pytest.approx(best)
        fillers += length > max(len(reach), shortest)
    # Tokens that nobody drafted are added where a pass over more takes less time, and nowhere else.
    assert (fillers > 0) == ("poor" in next(name for name, curve in CURVES.items() if curve == milliseconds))


@pytest.mark.parametrize("milliseconds", CURVES.values(), ids=CURVES)
def test_drafting_goes_on_while_some_longer_draft_pays(milliseconds: list[float]) -> None:
    """Prevent drafts from ending before a length at which a pass is cheaper."""
    choose, curve = random.Random(1), CostModel(milliseconds)
    stopped = 0
    for _ in range(400):
        longest = choose.randrange(2, 9)
        length = choose.randrange(1, longest)
        rate = choose.choice([0.01, 0.1, 0.2, 0.5])
        reached = choose.random()
        if reached >= least_reach(length, longest, curve, rate):
            continue
        stopped += 1
        # At best every token to come is as likely as the one before it.
        reach = [1.0] * (length - 1) + [reached] * (longest - length + 1)
        now = worth(length, reach, curve, rate)
        assert all(worth(more, reach, curve, rate) < now for more in range(length + 1, longest + 1))
    assert (stopped > 20) == (milliseconds != CURVES["flat"])


@pytest.mark.parametrize("milliseconds", CURVES.values(), ids=CURVES)
def test_extension_pays_where_some_length_does(milliseconds: list[float]) -> None:
    """When sampling, this is asked before each token is drawn, since afterwards it has to stay."""
    choose, curve = random.Random(2), CostModel(milliseconds)
    answers = []
    for _ in range(400):
        longest = choose.randrange(1, 9)
        length = choose.randrange(longest + 1)
        reached, probability = choose.random(), choose.random()
        rate = choose.choice([0.01, 0.1, 0.2, 0.5])
        reach = [1.0] * (length - 1) + [reached] * (length > 0)
        reach += [reached * probability**more for more in range(1, longest - length + 1)]
        now = worth(length, reach, curve, rate)
        pays = any(worth(more, reach, curve, rate) > now for more in range(length + 1, longest + 1))
        assert extension_pays(length, longest, reached, probability, curve, rate) == pays
        answers.append(pays)
    assert 20 < sum(answers) < 400
    assert not extension_pays(4, 4, 1.0, 1.0, curve, 0.001)


@pytest.mark.parametrize("accepted", [True, False])
def test_belief_follows_what_became_of_tokens(accepted: bool) -> None:
    """Prevent an estimate that ignores acceptance in a completion, or follows it without bounds."""
    belief = AcceptanceEstimator({source: [0.5, 0.25] for source in SOURCES})
    course = [0.5]
    for _ in range(20):
        belief.observe("network", 0, accepted)
        course.append(belief.probability("network", 0))
    assert course == sorted(course, reverse=not accepted)
    assert (course[-1] > 0.65) if accepted else (course[-1] < 0.25)
    # The other bins move along, the other sources do not.
    assert belief.probability("network", 1) == pytest.approx(course[-1] / 2)
    assert belief.probability("lookup", 0) == 0.5
    for _ in range(1000):
        belief.observe("network", 0, accepted)
    assert 0.1 < belief.probability("network", 0) < 1


def test_rate_moves_from_the_tuned_to_the_own_yield() -> None:
    """Prevent one accepted draft from deciding the first rounds, and losing drafts from seeming to pay."""
    curve = CostModel([10.0, 10.0, 14.0, 14.0])
    rate = throughput(1.5, curve)
    assert rate() == pytest.approx(1.5 / 14.0)  # a pass over the drafted and one more
    rate.observe(4, 14.0)
    assert 1.5 / 14.0 < rate() < 2.5 / 14.0
    for _ in range(500):
        rate.observe(4, 14.0)
    assert rate() == pytest.approx(4 / 14.0, rel=0.02)
    assert throughput(1.0, curve)() == pytest.approx(1.0 / 10.0)
    rate = throughput(1.5, CostModel([10.0, 30.0, 30.0]), least=1 / 10.0)
    assert rate() == pytest.approx(1 / 10.0)
    rate.observe(1, 30.0)
    assert rate() == pytest.approx(1 / 10.0)
    for _ in range(50):
        rate.observe(6, 30.0)
    assert rate() > 5 / 30.0


def test_curve_moves_as_a_whole() -> None:
    """Prevent outdated costs of lengths that were not tried since the machine became busy, and one interrupted pass
    from ending drafting."""
    for milliseconds in (0.0, 1e6):
        curve = CostModel([10.0, 12.0])
        curve.observe(1, milliseconds)
        assert 0.8 < curve(1) / 10.0 < 1.25
        assert 0.8 < curve(2) / 12.0 < 1.25
    curve = CostModel([10.0, 12.0, 20.0])
    for _ in range(100):
        curve.observe(2, 24.0)
    assert curve(2) == pytest.approx(24.0, rel=0.01)
    assert 1.3 * 10 < curve(1) < 2.1 * 10
    assert curve(3) / curve(1) == pytest.approx(2.0)
    for _ in range(100):
        curve.observe(7, 40.0)
    assert curve(3) == pytest.approx(40.0, rel=0.01)
