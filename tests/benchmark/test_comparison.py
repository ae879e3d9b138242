"""The comparison of two results files."""

import pytest

from drafter_trainer.benchmark.comparison import compare_results
from drafter_trainer.errors import InputError
from tests.benchmark.made import PROVENANCE, make_results, make_run
from tests.benchmark.test_report import cells

PLAIN_SECONDS = [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
# About half, a little more and a little less by turns
SECONDS = [0.98, 1.53, 1.96, 2.55, 2.94, 3.57, 3.92, 4.59]


def slowed(factor: float) -> list[float]:
    return [factor * second for second in SECONDS]


def test_planted_slowdown_is_found_and_noise_is_not() -> None:
    """One method became slower by a tenth, and the others changed only by chance."""
    a = make_results(make_run({"plain": PLAIN_SECONDS, "lookup": SECONDS, "drafter": SECONDS}))
    noisy = [second * (1.03 if number % 2 else 0.97) for number, second in enumerate(SECONDS)]
    b = make_results(make_run({"plain": PLAIN_SECONDS, "lookup": noisy, "drafter": slowed(1.1)}))
    text = compare_results(a, b)
    found = cells(text)
    assert found["drafter"][2:] == ["0.909x (0.909-0.909)", "slower"]
    assert found["lookup"][3] == "within noise"
    assert found["plain"][2:] == ["-", "-"]
    assert "8 questions in both" in text
    assert "Largest difference: 9.1%, drafter." in text
    assert "Limits" not in text
    assert cells(compare_results(b, a))["drafter"][2:] == ["1.100x (1.100-1.100)", "faster"]


def test_only_common_questions_are_compared() -> None:
    """Times of different prompts must not be compared."""
    a = make_results(make_run({"plain": PLAIN_SECONDS, "drafter": SECONDS}))
    longer = make_run({"plain": [*PLAIN_SECONDS, 1.0], "drafter": [*SECONDS, 100.0]})
    longer["questions"]["sha256"] = "1"
    text = compare_results(a, make_results(longer))
    assert cells(text)["drafter"][2] == "1.000x (1.000-1.000)"
    assert "the questions differ (8 and 9, of which 8 share their ids)" in text


def test_differing_settings_are_listed_first() -> None:
    """A newer library or another machine makes a difference that the method did not make."""
    a = make_results(make_run({"plain": PLAIN_SECONDS, "drafter": SECONDS}))
    run = make_run(
        {"plain": PLAIN_SECONDS, "drafter": SECONDS}, dtype="bfloat16", repeats=3, follow_clock=False, tokens=12
    )
    b = make_results(
        run,
        target="tests/other@2",
        device=PROVENANCE["device"] | {"runtime": "4 threads"},
        versions={"torch": "2.14.0", "transformers": "5.23.0"},
    )
    text = compare_results(a, b)
    cautions = text[text.index("Limits of this comparison") : text.index("| method")]
    for expected in (
        "targets differ (tests/tiny-target@1; tests/other@2)",
        "devices differ",
        "Versions differ (torch 2.13.0 and 2.14.0)",
        "settings differ (dtype float32 and bfloat16, repeats 1 and 3, follow_clock True and False)",
        "the lengths of plain decoding's outputs differ for 8 of 8 questions",
    ):
        assert expected in cautions


def test_runs_are_matched_by_setting() -> None:
    """A sampled run compared with a greedy one would show the effect of the temperature."""
    seconds = {"plain": PLAIN_SECONDS, "drafter": SECONDS}
    greedy, slower = make_run(seconds), make_run({"plain": PLAIN_SECONDS, "drafter": slowed(1.2)}, temperature=1.0)
    text = compare_results(make_results(greedy), make_results(slower, greedy))
    assert cells(text)["drafter"][3] == "within noise"
    assert "T = 1, seed 0: only in B, not compared." in text
    with pytest.raises(InputError, match=r"A has de-en, translation, greedy; B has de-en, translation, T = 1, seed 0"):
        compare_results(make_results(greedy), make_results(slower))
