"""Arguments of the recipes matrix, judge and route, and of rivals; those of bench: `drafter_trainer.arguments`."""

from dataclasses import dataclass

from drafter_trainer.arguments import check_positive, option
from drafter_trainer.errors import InputError
from drafter_trainer.languages import get_pair


@dataclass
class MatrixArguments:
    """Say which drafters are measured on what."""

    drafters: list[str] = option([], "Hub ids or folders of drafters, or folders with a results.json and no drafter")
    tasks: list[str] = option(
        [], "Tasks of recipes/configs/tasks; written TASK:PAIR, a task is asked in that pair alone"
    )
    pairs: list[str] = option([], "Pairs in each of which other tasks are asked")
    task_questions: list[str] = option(
        [], "What a task asks, as TASK=SOURCE; {pair} stands for the pair (default: as in its file)"
    )
    out: str = option("runs/matrix", "Folder of the cells, matrix.md and matrix.png")

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

    outputs: str = option("", "Folder of an outputs.jsonl: bench.py --save_outputs true")
    servers: list[str] = option([], "OpenAI-compatible servers such as http://host:8000; a key: OPENAI_API_KEY")
    judge_model: str = option("", "The servers' name for the judge")
    judgement_tokens: int = option(1024, "Length limit of a judgement")
    concurrency: int = option(8, "Requests in flight at each server")
    request_timeout: int = option(600, "Seconds to wait for a judgement")

    def __post_init__(self) -> None:
        if not self.outputs or not self.servers or not self.judge_model:
            raise InputError("give --outputs FOLDER --servers http://HOST:PORT --judge_model NAME")
        check_positive(self, "judgement_tokens", "concurrency", "request_timeout")


@dataclass
class RivalArguments:
    """Say what a rival of the literature is trained on."""

    data: list[str] = option([], "Folders of self-distilled rows, taken together (default: RUN_FOLDER/distill)")
    max_train_samples: int | None = option(None, "Train on so many of their rows, chosen by chance with --seed")

    def __post_init__(self) -> None:
        check_positive(self, "max_train_samples")


@dataclass
class MedusaArguments(RivalArguments):
    """Say the same of Medusa, and how far its heads look ahead."""

    heads: int = option(3, "Heads, each of which guesses one more token ahead")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "heads")


@dataclass
class RouteArguments:
    """Say between which drafters is routed, and on what that is measured."""

    drafters: list[str] = option([], "Hub ids or folders of drafters, one for each pair")
    questions: str = option("sample", "sample, or a Spec-Bench file with translations of all the pairs")
    max_questions: int | None = option(None, "Ask the first so many of each pair")
    max_new_tokens: int = option(128, "Length limit of an answer")
    repeats: int = option(1, "Time each prompt so often, an odd number, and take the median")
    out: str = option("runs/route", "Folder of results.json and its report")

    def __post_init__(self) -> None:
        if not self.drafters:
            raise InputError("no drafters: give --drafters FOLDER_OR_HUB_ID ...")
        check_positive(self, "max_questions", "max_new_tokens", "repeats")
        if self.repeats % 2 == 0:
            raise InputError(f"repeats must be odd, so that their median was measured itself, got {self.repeats}")
