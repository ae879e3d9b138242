"""Evaluation questions: what the benchmark asks, and what training must not see."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from drafter_trainer.corpora import read_sentences
from drafter_trainer.corpora.decontamination import Decontaminator
from drafter_trainer.corpora.files import read_json_lines
from drafter_trainer.corpora.hub import PARALLEL_CORPORA
from drafter_trainer.errors import InputError
from drafter_trainer.languages import Pair, read_translation_prompt, translation_prompt


@dataclass(frozen=True)
class Question:
    """Hold one question of a benchmark.

    Args:
        question_id (`str`): Unique within its set.
        prompt (`str`): What the user asks.
        text (`str`): The part of the prompt that is not its template: what training must not contain.
    """

    question_id: str
    prompt: str
    text: str


def load_questions(source: str, pair: Pair, limit: int | None = None) -> list[Question]:
    """Load questions for a pair.

    Args:
        source (`str`): `sample` or a parallel corpus such as `wmt16` (their test splits), or the path of a JSON Lines
            file in the Spec-Bench format: `question_id`, `turns`, of which the first is asked.
        pair (`Pair`): The direction. Translation prompts of a file are written anew, so that every set asks with the
            same white space.
        limit (`int`, *optional*): Take the first so many.
    Raises:
        InputError: If a line is malformed, ids repeat, a prompt is for another pair, or nothing is left.
    """
    kind = source.partition("@")[0]
    if kind == "sample" or kind in PARALLEL_CORPORA:
        questions = [
            Question(sentence.source_id, translation_prompt(pair, sentence.text), sentence.text)
            for sentence in itertools.islice(read_sentences(source, pair, "test"), limit)
        ]
    else:
        questions = _read_spec_bench(Path(source), pair)[:limit]
    if not questions:
        raise InputError(f"{source}: no questions for {pair}")
    return questions


def _read_spec_bench(path: Path, pair: Pair) -> list[Question]:
    questions: dict[str, Question] = {}
    for number, row in read_json_lines(path):
        place = f"{path}, line {number}"
        question_id, turns = row.get("question_id"), row.get("turns")
        if not isinstance(question_id, str | int) or not isinstance(turns, list) or not turns:
            raise InputError(f'{place}: not in the Spec-Bench format: expected "question_id" and a list of "turns"')
        prompt = turns[0]
        if not isinstance(prompt, str) or not prompt.strip():
            raise InputError(f"{place}: the first turn is empty: write a prompt there or delete the line")
        if str(question_id) in questions:
            raise InputError(f"{place}: question_id {question_id!r} stands in an earlier line too: make ids unique")
        questions[str(question_id)] = _question(str(question_id), prompt, pair, place)
    return list(questions.values())


def _question(question_id: str, prompt: str, pair: Pair, place: str) -> Question:
    translation = read_translation_prompt(prompt)
    if translation is None:
        return Question(question_id, prompt, prompt)
    source, target, text = translation
    if (source, target) != (pair.source.name, pair.target.name):
        raise InputError(f"{place}: the prompt translates {source} to {target}, the pair is {pair}: name another file")
    return Question(question_id, translation_prompt(pair, text), text)


def keep_out(sources: Iterable[str], pair: Pair) -> Decontaminator:
    """Load question sets and build the filter that keeps them out of training.

    Args:
        sources (`Iterable[str]`): As for `load_questions`.
    """
    questions = (question for source in sources for question in load_questions(source, pair))
    return Decontaminator((question.text, pair.source.spaced) for question in questions)
