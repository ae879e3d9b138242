"""Evaluation questions: the sample's, those of files in the Spec-Bench format, and how they are kept out."""

import json
from pathlib import Path
from typing import Any

import pytest

from drafter_trainer.corpora.questions import Question, load_decontaminator, load_questions
from drafter_trainer.corpora.reading import read_sentences
from drafter_trainer.corpora.sample import sample_stories
from drafter_trainer.errors import InputError
from drafter_trainer.languages import get_pair

PAIR = get_pair("de-en")


def spec_bench(path: Path, *rows: Any) -> str:
    """Write rows, or lines as they are; return the path."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def test_sample_asks_its_test_split() -> None:
    """Questions from another split would be in the training data."""
    questions = load_questions("sample", PAIR)
    tested = list(read_sentences("sample", PAIR, "test"))
    assert [question.text for question in questions] == [sentence.text for sentence in tested]
    assert [question.question_id for question in questions] == [sentence.source_id for sentence in tested]
    assert questions[0].prompt == f"Translate German to English: {tested[0].text}"


VERBATIM = "  Write a poem:\n\nabout Translate German to English: x  "


@pytest.mark.parametrize(
    ("row", "question"),
    [
        # The paper's questions have no space there, its training prompts one: else asked what no drafter saw.
        *(
            (
                {"question_id": 7, "category": "translation", "turns": [f"Translate German to English:{space}Ja."]},
                Question("7", "Translate German to English: Ja.", "Ja."),
            )
            for space in ("", " ", "\n")
        ),
        # Spec-Bench numbers its questions; 7 and "7" in one results file would be two questions.
        ({"question_id": "x", "turns": ["b"]}, Question("x", "b", "b")),
        # Without the first answer, a second turn makes no sense.
        ({"question_id": 1, "turns": ["First.", "Second."]}, Question("1", "First.", "First.")),
        # A prompt that is no translation must reach the target as its author wrote it.
        ({"question_id": 1, "turns": [VERBATIM]}, Question("1", VERBATIM, VERBATIM)),
    ],
)
def test_rows_of_spec_bench_are_questions(tmp_path: Path, row: dict[str, Any], question: Question) -> None:
    """A row that is read in another way is another benchmark of the same name."""
    assert load_questions(spec_bench(tmp_path / "q.jsonl", row), PAIR) == [question]


@pytest.mark.parametrize("written", ["English to German", "French to English"])
def test_prompt_for_another_pair_is_refused(tmp_path: Path, written: str) -> None:
    """The wrong file would measure a drafter in a language that it was not made for."""
    row = {"question_id": 1, "turns": [f"Translate {written}: Hello."]}
    with pytest.raises(InputError, match=rf"q\.jsonl, line 1: the prompt translates {written}, the pair is de-en"):
        load_questions(spec_bench(tmp_path / "q.jsonl", row), PAIR)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "empty line"),
        ("{", "not JSON"),
        ({"turns": ["a"]}, "not in the Spec-Bench format"),
        ({"question_id": 2}, "not in the Spec-Bench format"),
        ({"question_id": 2, "turns": []}, "not in the Spec-Bench format"),
        ({"question_id": 2, "turns": "a"}, "not in the Spec-Bench format"),
        ({"question_id": None, "turns": ["a"]}, "not in the Spec-Bench format"),
        ({"question_id": 2, "turns": [" "]}, "first turn is empty"),
        ({"question_id": 2, "turns": [None]}, "first turn is empty"),
        ({"question_id": 2, "turns": ["a", ""]}, "turn 2 is empty"),
        ({"question_id": 2, "turns": ["a"], "reference": 4}, 'expected a text as "reference", got 4'),
        ({"question_id": 1, "turns": ["again"]}, "question_id 1 is repeated"),
        ({"question_id": "1", "turns": ["again"]}, "question_id '1' is repeated"),
    ],
)
def test_malformed_line_is_named(tmp_path: Path, line: Any, said: str) -> None:
    """A question that is skipped in silence makes two benchmarks of one name differ."""
    path = spec_bench(tmp_path / "q.jsonl", {"question_id": 1, "turns": ["a"]}, line)
    with pytest.raises(InputError) as caught:
        load_questions(path, PAIR)
    assert f"{path}, line 2: " in str(caught.value)
    assert said in str(caught.value)


def test_file_without_questions_is_refused(tmp_path: Path) -> None:
    """A benchmark of nothing would divide by zero after the models were loaded."""
    with pytest.raises(InputError, match="no questions for de-en"):
        load_questions(spec_bench(tmp_path / "q.jsonl"), PAIR)
    with pytest.raises(InputError, match="no such file"):
        load_questions(str(tmp_path / "absent.jsonl"), PAIR)


def test_questions_of_all_sources_are_kept_out(tmp_path: Path) -> None:
    """A set that is named but not read would leave its questions, or their references, in the training data."""
    path = spec_bench(tmp_path / "q.jsonl", {"question_id": 1, "turns": ["Translate German to English:Ganz kurz!"]})
    decontaminator = load_decontaminator(["sample", path], PAIR)
    assert decontaminator.reason("Ganz kurz") == "exact match"
    assert all(decontaminator.reason(sentence.text) for sentence in read_sentences("sample", PAIR, "test"))
    assert load_decontaminator([path], PAIR).reason(next(read_sentences("sample", PAIR, "test")).text) is None
    row = {"question_id": 1, "turns": ["Translate German to English: Der Hund."], "reference": "The dog, it barks."}
    decontaminator = load_decontaminator([spec_bench(tmp_path / "q.jsonl", row)], PAIR)
    assert decontaminator.reason("The dog - it barks") == "exact match"
    assert decontaminator.reason("The dog barks") is None


def test_file_asks_the_part_of_it_that_training_never_reads(tmp_path: Path) -> None:
    """A language without a benchmark is measured on its own text: on sentences that it was not trained on."""
    texts = [(f"Satz Nummer {number} handelt vom Wetter.", f"Told {number}.") for number in range(200)]
    rows = [{"source": source, "target": target} for source, target in texts]
    name = f"file:{spec_bench(tmp_path / 'a.jsonl', *rows)}"
    questions = load_questions(name, PAIR)
    assert len(questions) > 1
    assert questions[0].prompt.startswith("Translate German to English: Satz Nummer")
    assert questions[0].reference.startswith("Told")
    trained = {row.text for split in ("train", "validation") for row in read_sentences(name, PAIR, split)}
    assert trained.isdisjoint(question.text for question in questions)
    assert len(trained) + len(questions) == 200


@pytest.mark.parametrize("code", ["en", "de", "ja"])
def test_stories_of_the_sample_are_kept_out(code: str) -> None:
    """A story that is asked for in the benchmark must not be one that was trained on, in any language."""
    (_, subject), *_ = sample_stories("test")
    assert load_decontaminator(["sample"], PAIR).reason(f"{subject[code]}!") in ("exact match", "overlap")
