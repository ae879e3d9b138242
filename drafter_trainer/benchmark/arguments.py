"""Arguments of the recipes matrix, judge and route; those of bench stand in `drafter_trainer.arguments`."""

from dataclasses import dataclass, field

from drafter_trainer.errors import InputError
from drafter_trainer.languages import get_pair


@dataclass
class MatrixArguments:
    """Say which drafters are measured on what."""

    drafters: list[str] = field(
        default_factory=list,
        metadata={"help": "Hub ids or folders of drafters, or folders with a results.json and no drafter"},
    )
    tasks: list[str] = field(
        default_factory=list,
        metadata={"help": "Tasks of recipes/configs/tasks; written TASK:PAIR, a task is asked in that pair alone"},
    )
    pairs: list[str] = field(default_factory=list, metadata={"help": "Pairs in each of which other tasks are asked"})
    task_questions: list[str] = field(
        default_factory=list,
        metadata={"help": "What a task asks, as TASK=SOURCE; {pair} stands for the pair (default: as in its file)"},
    )
    out: str = field(default="runs/matrix", metadata={"help": "Folder of the cells, matrix.md and matrix.png"})

    def __post_init__(self) -> None:
        if not self.drafters or not self.tasks:
            raise InputError("give --drafters FOLDER_OR_HUB_ID ... and --tasks NAME ..., or a --config that has them")
        if not self.pairs and not all(":" in task for task in self.tasks):
            raise InputError("no pairs: give --pairs de-en ..., or tasks such as translation:de-en")
        for _, pair in self.columns:
            get_pair(pair)
        known = dict.fromkeys(task for task, _ in self.columns)
        for entry in self.task_questions:
            task, _, source = entry.partition("=")
            if task not in known or not source:
                raise InputError(f"task_questions are TASK=SOURCE of the tasks {', '.join(known)}, got {entry}")

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Tasks, each with the pair that it is asked in."""
        parted = [task.partition(":") for task in self.tasks]
        return [(task, pair) for task, _, own in parted for pair in ([own] if own else self.pairs)]

    def questions(self, task: str, pair: str) -> str | None:
        """Return what a task asks in a pair, where that is said."""
        sources = dict(entry.split("=", 1) for entry in self.task_questions)
        return sources[task].replace("{pair}", pair) if task in sources else None


@dataclass
class JudgeArguments:
    """Say who grades which answers."""

    outputs: str = field(default="", metadata={"help": "Folder of an outputs.jsonl: bench.py --save_outputs true"})
    servers: list[str] = field(
        default_factory=list,
        metadata={"help": "OpenAI-compatible servers such as http://host:8000; a key: OPENAI_API_KEY"},
    )
    judge_model: str = field(default="", metadata={"help": "The servers' name for the judge"})
    judgement_tokens: int = field(default=1024, metadata={"help": "Length limit of a judgement"})
    concurrency: int = field(default=8, metadata={"help": "Requests in flight at each server"})
    request_timeout: int = field(default=600, metadata={"help": "Seconds to wait for a judgement"})

    def __post_init__(self) -> None:
        if not self.outputs or not self.servers or not self.judge_model:
            raise InputError("give --outputs FOLDER --servers http://HOST:PORT --judge_model NAME")
        for name in ("judgement_tokens", "concurrency", "request_timeout"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass
class RouteArguments:
    """Say between which drafters is routed, and on what that is measured."""

    drafters: list[str] = field(
        default_factory=list, metadata={"help": "Hub ids or folders of drafters, one for each pair"}
    )
    questions: str = field(
        default="sample", metadata={"help": "sample, or a Spec-Bench file with translations of all the pairs"}
    )
    max_questions: int | None = field(default=None, metadata={"help": "Ask the first so many of each pair"})
    max_new_tokens: int = field(default=128, metadata={"help": "Length limit of an answer"})
    repeats: int = field(default=1, metadata={"help": "Time each prompt so often, an odd number; the median counts"})
    out: str = field(default="runs/route", metadata={"help": "Folder of results.json and its report"})

    def __post_init__(self) -> None:
        if not self.drafters:
            raise InputError("no drafters: give --drafters FOLDER_OR_HUB_ID ...")
        for name in ("max_questions", "max_new_tokens", "repeats"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        if self.repeats % 2 == 0:
            raise InputError(f"repeats must be odd, so that their median was measured itself, got {self.repeats}")
