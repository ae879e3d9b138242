"""The warning at the top of a card whose target does not do its task."""

import pytest

from drafter_trainer.benchmark.target_quality import quality_warning
from drafter_trainer.results import find_method
from tests.benchmark.made import make_results, make_run

TIMES = {"plain": [2.0] * 8, "drafter": [1.0] * 8}


def results(chrf: float | None, looping: float = 0.0, **other: object) -> dict:
    run = make_run(TIMES, **other)
    plain = find_method(run, "plain")
    plain["looping_share"] = looping
    if chrf is not None:
        plain["quality"] = {"answers": 8, "chrf": chrf, "bleu": 0.34, "signatures": {}}
    return make_results(run)


def test_target_that_does_not_do_its_task_is_named_first() -> None:
    """A speedup on output that nobody wants was quoted as if the target did its task."""
    assert quality_warning([results(15.6), results(45.0)]) == (
        "**The target does not do its task in 1 of 2 runs** (de-en translation, greedy: the plain translations score "
        "chrF 15.6, below 30). Speedups on such output do not carry over to a target that does."
    )
    assert "in 1 of 1 runs** (de-en story, greedy: 50% of the plain outputs loop)" in quality_warning(
        [results(None, looping=0.5, task="story")]
    )


@pytest.mark.parametrize("given", [results(45.0), results(None), results(15.6, temperature=1.0)])
def test_nothing_is_said_of_a_target_that_does_its_task(given: dict) -> None:
    """A warning on every card is read on none; sampled translations do not judge a translator."""
    assert quality_warning([given]) == ""
