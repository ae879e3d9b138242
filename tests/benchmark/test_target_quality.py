"""What a page of speedups says first of its targets."""

import pytest

from drafter_trainer.benchmark.target_quality import find_qualities, quality_warning
from tests.benchmark.made import make_results, make_run

TIMES = {"plain": [2.0] * 8, "drafter": [1.0] * 8}


def results(chrf: float | None, target: str = "org/target@1", **other: object) -> dict:
    """Results of a target whose translations were scored, or were not."""
    run = make_run(TIMES, **other)
    if chrf is not None:
        run["methods"][0]["quality"] = {"answers": 8, "chrf": chrf, "bleu": 0.34, "signatures": {}}
    made = make_results(run)
    return made | {"provenance": made["provenance"] | {"target": target}}


def test_target_that_does_not_translate_is_named_first() -> None:
    """A speedup on answers that nobody wants was quoted as if the target did its task."""
    said = quality_warning([results(15.6), results(None)])
    assert said.startswith("**The target of the numbers on this page does not translate.** org/target scores ")
    assert "BLEU 0.3 and chrF 15.6 from German to English (8 sentences of made up)" in said
    # Results without scores go by those of the same target elsewhere, and never by those of another one.
    assert quality_warning([results(None)], find_qualities([results(15.6)])) == said
    assert quality_warning([results(None)], find_qualities([results(15.6, "org/other@1")])) == ""
    both = quality_warning([results(15.6), results(12.0, "org/other@1")])
    assert both.startswith("**The targets of the numbers on this page do not translate.** org/target ")
    assert "org/other scores BLEU 0.3 and chrF 12.0" in both


@pytest.mark.parametrize("given", [results(45.0), results(None), results(15.6, temperature=1.0)])
def test_nothing_is_said_of_a_target_that_translates(given: dict) -> None:
    """A warning on every page is read on none; sampled answers and other tasks do not judge a translator."""
    assert quality_warning([given]) == ""
    # A target's own scores on the page count, not those that were measured elsewhere with another prompt.
    assert (quality_warning([given], find_qualities([results(12.0)])) == "") == (bool(find_qualities([given])))
