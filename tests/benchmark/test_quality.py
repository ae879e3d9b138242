"""Scores against references: by hand, in languages with and without spaces, and only where there are references."""

from typing import Any

import pytest

from drafter_trainer.benchmark.quality import add_quality, score
from drafter_trainer.benchmark.report import quality_table
from drafter_trainer.corpora.questions import Question
from drafter_trainer.languages import get_language

ENGLISH = get_language("en")
SAID, MEANT = "the cat sat on the mat today", "the cat sat on the mat yesterday"


def record(question_id: str, **texts: str) -> dict[str, Any]:
    return {"question_id": question_id, "methods": {name: {"text": text} for name, text in texts.items()}}


def run_of(*names: str) -> dict[str, Any]:
    return {
        "pair": "de-en",
        "task": "translation",
        "temperature": 0.0,
        "seed": 0,
        "methods": [{"name": n} for n in names],
    }


def test_scores_are_those_worked_out_by_hand() -> None:
    """Another smoothing, order or tokenizer gives numbers that compare with nobody's."""
    # 6 of 7 words, 5 of 6 pairs, 4 of 5 triples and 3 of 4 quadruples are right, and the lengths are equal.
    assert score([SAID], [MEANT], ENGLISH)["bleu"] == pytest.approx(100 * (3 / 7) ** (1 / 4))
    # Characters without spaces, abc and abd: 2 of 3, 1 of 2 and 0 of 1, as precision and as recall.
    assert score(["a b c"], ["a b d"], ENGLISH)["chrf"] == pytest.approx(100 * (2 / 3 + 1 / 2 + 0) / 3)


@pytest.mark.parametrize(
    ("code", "said", "meant", "tokenizer"),
    [
        ("ja", "明日は駅のカフェで会いましょう", "明日は駅のカフェで会います", "ja-mecab"),
        ("zh", "明天上午七点在车站的咖啡馆见面", "明天上午七点在车站的咖啡馆等我", "zh"),
        ("zh-Hant", "明天上午七點在車站的咖啡館見面", "明天上午七點在車站的咖啡館等我", "zh"),
    ],
)
def test_words_without_spaces_are_told_apart(code: str, said: str, meant: str, tokenizer: str) -> None:
    """A Japanese or Chinese sentence taken for one word scores 0 unless it is perfect."""
    found = score([said], [meant], get_language(code))
    assert found["bleu"] > 50
    assert f"tok:{tokenizer}" in found["signatures"]["bleu"]
    assert score([said], [meant], ENGLISH)["bleu"] < 1


def test_lossy_method_scores_lower_than_plain() -> None:
    """A method that harms the answers must show beside plain decoding."""
    questions = [Question("1", "?", "?", reference=MEANT), Question("2", "?", "?")]
    records = [record("1", plain=MEANT, lossy=SAID), record("2", plain="never", lossy="compared")]
    run = run_of("plain", "lossy")
    add_quality(run, records, questions, ENGLISH)
    plain, lossy = (method["quality"] for method in run["methods"])
    assert (plain["answers"], plain["bleu"], plain["chrf"]) == (1, pytest.approx(100), pytest.approx(100))
    assert lossy["bleu"] == pytest.approx(100 * (3 / 7) ** (1 / 4))
    _, (first, second) = quality_table(run)
    assert first[:4] == ["plain", "1", "100.0", "100.0"]
    assert float(second[3]) < 100
    assert "tok:13a" in first[4]


def test_without_references_nothing_is_said() -> None:
    """A score of nothing is no score."""
    run = run_of("plain")
    add_quality(run, [record("1", plain="a")], [Question("1", "?", "?")], ENGLISH)
    assert run == run_of("plain")
    assert quality_table(run) is None
