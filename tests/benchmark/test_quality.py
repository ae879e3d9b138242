"""Scores against references, and the warning about a target that does not do its task."""

from typing import Any

import pytest

from drafter_trainer.benchmark.quality import add_quality, quality_warning, score
from drafter_trainer.benchmark.report import quality_table
from drafter_trainer.corpora.questions import Question
from drafter_trainer.languages import get_language
from drafter_trainer.results import find_method
from tests.benchmark.made import make_results, make_run

ENGLISH = get_language("en")
OUTPUT, REFERENCE = "the cat sat on the mat today", "the cat sat on the mat yesterday"


def record(question_id: str, **texts: str) -> dict[str, Any]:
    return {"question_id": question_id, "methods": {name: {"text": text} for name, text in texts.items()}}


def test_scores_are_those_computed_by_hand() -> None:
    """Another smoothing, order or tokenizer gives scores that cannot be compared with published ones."""
    # 6 of 7 words, 5 of 6 pairs, 4 of 5 triples and 3 of 4 quadruples are right, and the lengths are equal.
    assert score([OUTPUT], [REFERENCE], ENGLISH)["bleu"] == pytest.approx(100 * (3 / 7) ** (1 / 4))
    # Characters without spaces, abc and abd: 2 of 3, 1 of 2 and 0 of 1, as precision and as recall.
    assert score(["a b c"], ["a b d"], ENGLISH)["chrf"] == pytest.approx(100 * (2 / 3 + 1 / 2 + 0) / 3)


@pytest.mark.parametrize(
    ("code", "output", "reference", "tokenizer"),
    [
        ("ja", "明日は駅のカフェで会いましょう", "明日は駅のカフェで会います", "ja-mecab"),
        ("zh", "明天上午七点在车站的咖啡馆见面", "明天上午七点在车站的咖啡馆等我", "zh"),
        ("zh-Hant", "明天上午七點在車站的咖啡館見面", "明天上午七點在車站的咖啡館等我", "zh"),
    ],
)
def test_words_without_spaces_are_separated(code: str, output: str, reference: str, tokenizer: str) -> None:
    """A Japanese or Chinese sentence counted as one word scores 0 unless it is perfect."""
    found = score([output], [reference], get_language(code))
    assert found["bleu"] > 50
    assert f"tok:{tokenizer}" in found["signatures"]["bleu"]
    assert score([output], [reference], ENGLISH)["bleu"] < 1


def test_lossy_method_scores_lower_than_plain() -> None:
    """A method that harms the outputs must be visible, and outputs without references must not count."""
    questions = [Question("1", "?", "?", reference=REFERENCE), Question("2", "?", "?")]
    records = [record("1", plain=REFERENCE, lossy=OUTPUT), record("2", plain="never", lossy="compared")]
    run = {"methods": [{"name": "plain"}, {"name": "lossy"}]}
    add_quality(run, records[1:], questions, ENGLISH)
    assert quality_table(run)[1] == []
    add_quality(run, records, questions, ENGLISH)
    plain, lossy = (method["quality"] for method in run["methods"])
    assert (plain["answers"], plain["bleu"], plain["chrf"]) == (1, pytest.approx(100), pytest.approx(100))
    assert lossy["bleu"] == pytest.approx(100 * (3 / 7) ** (1 / 4))
    _, (first, second) = quality_table(run)
    assert first[:4] == ["plain", "1", "100.0", "100.0"]
    assert float(second[3]) < 100
    assert "tok:13a" in first[4]


def results(chrf: float | None, looping: float = 0.0, **other: object) -> dict[str, Any]:
    run = make_run({"plain": [2.0] * 8, "drafter": [1.0] * 8}, **other)
    plain = find_method(run, "plain")
    plain["looping_share"] = looping
    if chrf is not None:
        plain["quality"] = {"answers": 8, "chrf": chrf, "bleu": 0.34, "signatures": {}}
    return make_results(run)


def test_target_that_does_not_do_its_task_is_named_first() -> None:
    """A speedup on useless output must not be quoted as if the target did its task."""
    assert quality_warning([results(15.6), results(45.0)]) == (
        "**The target does not do its task in 1 of 2 runs** (de-en translation, greedy: the plain translations score "
        "chrF 15.6, below 30). Speedups on such output do not carry over to a target that does."
    )
    assert "in 1 of 1 runs** (de-en story, greedy: 50% of the plain outputs loop)" in quality_warning(
        [results(None, looping=0.5, task="story")]
    )


@pytest.mark.parametrize("given", [results(45.0), results(None), results(15.6, temperature=1.0)])
def test_no_warning_for_a_target_that_does_its_task(given: dict[str, Any]) -> None:
    """A warning on every card is not read; sampled translations are no measure of a translator."""
    assert quality_warning([given]) == ""
