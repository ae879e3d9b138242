"""Evaluation questions: the prompts of the benchmark, which must not be trained on."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drafter_trainer.corpora.catalog import PARALLEL_CORPORA, SAMPLE
from drafter_trainer.corpora.decontamination import Decontaminator
from drafter_trainer.corpora.files import read_json_lines
from drafter_trainer.corpora.reading import read_sentences
from drafter_trainer.corpora.sample import LANGUAGES as SAMPLE_LANGUAGES
from drafter_trainer.corpora.sample import sample_stories
from drafter_trainer.corpora.tasks import MT_BENCH, STORY, TRANSLATION, Task, mt_bench_file
from drafter_trainer.errors import InputError
from drafter_trainer.languages import (
    LANGUAGES,
    Pair,
    is_spaced,
    read_translation_prompt,
    story_prompt,
    translation_prompt,
)

_ALL_TURNS = 1000


@dataclass(frozen=True)
class Question:
    """A question of a benchmark, or one turn of a conversation.

    Args:
        question_id (`str`): Id, unique within the set; ids of turns end in `/1`, `/2` …
        text (`str`): The text to decontaminate: the prompt without its template.
        earlier (`tuple[Question, ...]`, *optional*): The earlier turns of the conversation, first to last.
    """

    question_id: str
    prompt: str
    text: str
    earlier: tuple["Question", ...] = ()
    reference: str | None = None


def load_questions(source: str, pair: Pair, limit: int | None = None, task: Task | None = None) -> list[Question]:
    """Load the questions of a task for a pair.

    Args:
        source (`str`): `sample` (the tasks translation and story), a parallel corpus such as `wmt16` or `file:PATH`
            (its test split), `mt-bench`, or the path of a JSON Lines file in the Spec-Bench format. Its rows have
            `question_id`, `turns`, and optionally `category` and `reference` (a good completion of the first turn).
        pair (`Pair`): The direction. Stories are in its target language. Translation prompts in a file are rendered
            again, so that all sets have the same white space.
        task (`Task`, *optional*, defaults to `Task()`): Task with the categories and the number of turns.
    """
    task = task or Task()
    kind = source.partition("@")[0]
    has_sentences = kind == SAMPLE or kind in PARALLEL_CORPORA or source.startswith("file:")
    questions: Iterable[Question]
    if kind == SAMPLE and task.name == STORY:
        prompts = ((story_id, story_prompt(pair.target, subject)) for story_id, subject in sample_stories("test"))
        questions = (Question(story_id, prompt, prompt) for story_id, prompt in prompts)
    elif task.name != TRANSLATION and has_sentences:
        raise InputError(f"{source} has no questions of task {task.name}: name a Spec-Bench file")
    elif has_sentences:
        questions = (
            Question(each.source_id, translation_prompt(pair, each.text), each.text, reference=each.reference or None)
            for each in read_sentences(source, pair, "test")
        )
    else:
        if source != MT_BENCH and not Path(source).suffix and not Path(source).exists():
            names = ", ".join([SAMPLE, *PARALLEL_CORPORA, MT_BENCH])
            raise InputError(f"unknown question set {source}: expected {names}, file:PATH, or a Spec-Bench file")
        # The whole file is read, so that errors after the limit are raised too.
        questions = [*_read_spec_bench(mt_bench_file() if source == MT_BENCH else Path(source), pair, task)]
    if not (chosen := [*itertools.islice(questions, limit)]):
        raise InputError(f"{source}: no questions for {pair}")
    return chosen


def hash_questions(questions: Iterable[Question]) -> str:
    """Return a hash of the questions' ids and prompts, which results files record."""
    content = json.dumps([[question.question_id, question.prompt] for question in questions])
    return hashlib.sha256(content.encode()).hexdigest()


def _read_spec_bench(path: Path, pair: Pair, task: Task) -> Iterator[Question]:
    seen: set[str] = set()
    left_out: set[str] = set()
    count = 0
    for number, row in read_json_lines(path):
        location = f"{path}, line {number}"
        question_id, turns, reference = _check(row, location)
        if question_id in seen:
            raise InputError(f"{location}: question_id {row['question_id']!r} is repeated: make ids unique")
        seen.add(question_id)
        category = row.get("category")
        if task.categories and category is not None and category not in task.categories:
            left_out.add(str(category))
            continue
        count += 1
        yield from _turns(question_id, turns[: task.turns], reference, pair, location)
    if left_out and not count:
        raise InputError(
            f"{path}: no questions of task {task.name} ({', '.join(task.categories)}), only of "
            f"{', '.join(sorted(left_out))}: name another file or other categories"
        )


def _check(row: dict[str, Any], location: str) -> tuple[str, list[str], str | None]:
    question_id, turns, reference = row.get("question_id"), row.get("turns"), row.get("reference")
    if not isinstance(question_id, str | int) or not isinstance(turns, list) or not turns:
        raise InputError(f'{location}: not in the Spec-Bench format: expected "question_id" and a list of "turns"')
    for turn, prompt in enumerate(turns, start=1):
        if not isinstance(prompt, str) or not prompt.strip():
            name = "the first turn" if turn == 1 else f"turn {turn}"
            raise InputError(f"{location}: {name} is empty: write a prompt there or delete the line")
    # MT-Bench's own references are lists for a judge of mathematics, not texts to compare with.
    if reference is not None and not isinstance(reference, str | list):
        raise InputError(f'{location}: expected a text as "reference", got {str(reference)[:40]}: write or remove it')
    return str(question_id), turns, reference if isinstance(reference, str) and reference.strip() else None


def _turns(question_id: str, turns: list[str], reference: str | None, pair: Pair, location: str) -> Iterator[Question]:
    earlier: tuple[Question, ...] = ()
    for number, prompt in enumerate(turns, start=1):
        text = prompt
        if (translation := read_translation_prompt(prompt)) is not None:
            source, target, text = translation
            if (source, target) != (pair.source.name, pair.target.name):
                raise InputError(
                    f"{location}: the prompt translates {source} to {target}, the pair is {pair}: name another file"
                )
            prompt = translation_prompt(pair, text)
        name = question_id if len(turns) == 1 else f"{question_id}/{number}"
        question = Question(name, prompt, text, earlier, reference if number == 1 else None)
        earlier = (*earlier, question)
        yield question


def load_decontaminator(sources: Iterable[str], pair: Pair) -> Decontaminator:
    """Make a filter for texts that contain a question of these sets, in any turn and category.

    It also filters references, since training text in the language of the completions may contain them.
    """
    return Decontaminator(question_texts(sources, pair))


def question_texts(sources: Iterable[str], pair: Pair) -> Iterator[tuple[str, bool]]:
    """Yield the texts of question sets, and whether spaces separate their words; see `load_decontaminator`."""
    for source in sources:
        if source == SAMPLE:
            for _, subject in sample_stories("test"):
                yield from ((text, LANGUAGES[code].spaced) for code, text in subject.items())
            if pair.source.code not in SAMPLE_LANGUAGES:
                continue  # the sample has stories for every pair, but sentences in a few languages only
        for question in load_questions(source, pair, task=Task(turns=_ALL_TURNS)):
            # The language is known for translations only.
            translated = question.text != question.prompt
            yield question.text, pair.source.spaced if translated else is_spaced(question.text)
            if question.reference is not None:
                yield question.reference, pair.target.spaced if translated else is_spaced(question.reference)
