"""Options of the steps that measure: tune, bench and predict."""

from dataclasses import dataclass
from typing import ClassVar

from drafter_trainer.cli.options import check_known, check_one_of, check_positive, option
from drafter_trainer.corpora.tasks import TASKS, TRANSLATION
from drafter_trainer.drafters.loop.policy import SOURCES
from drafter_trainer.drafters.ngram import LEAST_BYTES
from drafter_trainer.errors import InputError

STOCK_LOOP = "stock_loop"  # the drafter itself, in transformers' own loop
BASELINES = (STOCK_LOOP, "lookahead", "medusa", "eagle", "early_exit")


@dataclass
class TuningArguments:
    """The data that a drafter's settings are tuned on."""

    _argument_group_name: ClassVar[str] = "tuning"
    RARE: ClassVar = {
        "max_answers", "max_samples", "table_bytes", "evaluation_questions", "on_bad_rows", "longest_draft", "repeats",
    }  # fmt: skip

    data: str = option("", "Folder of rows (default: RUN_FOLDER/distill)")
    table_corpus: list[str] = option(
        [],
        "Corpora for n-gram tables besides the completions: text by name, or rows:FOLDER of a distillation",
    )
    sources: list[str] = option([], "Draft sources, of lookup, ngram and network (default: all)")
    max_answers: int = option(60, "Maximum number of held-out completions that settings are tried on")
    max_samples: int | None = option(None, "Maximum number of documents of each table corpus")
    table_bytes: int = option(1 << 21, "Maximum size of an n-gram table's file in bytes; smaller ones are tried too")
    evaluation_questions: list[str] = option(["sample"], "Question sets that the tables are decontaminated from")
    on_bad_rows: str = option("error", "Malformed rows of a table corpus: error, or skip to drop and count them")
    longest_draft: int = option(32, "Maximum draft length, in tokens, that is timed and tried")
    repeats: int = option(5, "Number of timed rounds of each draft length")

    def __post_init__(self) -> None:
        check_positive(self, "max_answers", "max_samples", "longest_draft", "repeats")
        check_one_of(self, "on_bad_rows", ("error", "skip"))
        check_known(self, "sources", SOURCES)
        if self.table_bytes < LEAST_BYTES:
            raise InputError(f"table_bytes must be {LEAST_BYTES} or more, got {self.table_bytes}")


@dataclass
class BenchmarkArguments:
    """What is measured."""

    _argument_group_name: ClassVar[str] = "benchmark"
    RARE: ClassVar = {
        "max_sampling_questions", "seeds", "prompt_lookup_tokens", "without", "alone", "engine_python",
        "engine_options", "target_gguf",
    }  # fmt: skip

    drafter: str = option("", "Hub id or folder of the drafter (default: RUN_FOLDER/drafter)")
    task: str = option(TRANSLATION, f"Task by name: {', '.join(TASKS)}")
    questions: str = option(
        "", "sample, a parallel corpus, file:PATH, mt-bench, or a Spec-Bench file (default: sample, or the task's own)"
    )
    max_questions: int | None = option(None, "Maximum number of questions; each turn counts (default: all)")
    temperatures: list[float] = option([0.0, 1.0], "Sampling temperatures; 0 is greedy")
    max_new_tokens: int = option(128, "Maximum number of tokens of a completion")
    repeats: int = option(1, "Number of timings of each prompt, odd; the median counts")
    against: list[str] = option([], "Other drafters to measure, each as NAME=FOLDER or NAME=HUB_ID")
    baselines: list[str] = option([], f"Baselines to measure: {', '.join(BASELINES)}")
    output_dir: str = option("", "Folder of results.json (default: RUN_FOLDER, or RUN_FOLDER/tasks/TASK)")
    max_sampling_questions: int | None = option(None, "Maximum number of questions at temperatures above 0")
    seeds: list[int] = option([0, 1, 2], "Seeds of each temperature above 0")
    prompt_lookup_tokens: list[int] = option([10], "Draft lengths of prompt lookup, each of them a method")
    without: list[str] = option([], "Draft sources to leave out, one at a time: lookup, ngram, network")
    alone: list[str] = option([], "Draft sources to measure alone: lookup, ngram, network")
    engine: str = option("", "Engine to measure in, greedily: vllm or llamacpp (default: transformers, batch 1)")
    engine_python: str | None = option(
        None, "Interpreter of the environment with vLLM or xllamacpp (default: this one; llama-server)"
    )
    engine_options: str = option("", "Further options of the engine, as --engine_options='--dtype float32'")
    target_gguf: str | None = option(None, "The target's GGUF file, for llamacpp (default: its wheel's)")

    def __post_init__(self) -> None:
        if not self.temperatures or min(self.temperatures) < 0:
            raise InputError(f"temperatures must be 0 or more, got {self.temperatures}")
        check_positive(self, "max_new_tokens", "max_questions", "max_sampling_questions", "repeats")
        if self.repeats % 2 == 0:
            raise InputError(f"repeats must be odd, so that their median was measured itself, got {self.repeats}")
        if len(self.others) < len(self.against) or any(not name or not place for name, place in self.others.items()):
            raise InputError(f"against takes NAME=FOLDER_OR_HUB_ID, each name once, got {' '.join(self.against)}")
        if min(self.prompt_lookup_tokens, default=0) < 1:
            raise InputError(f"prompt_lookup_tokens must be 1 or more, got {self.prompt_lookup_tokens}")
        check_one_of(self, "task", [*TASKS])
        check_known(self, "without", SOURCES)
        check_known(self, "alone", SOURCES)
        check_known(self, "baselines", BASELINES)

    @property
    def others(self) -> dict[str, str]:
        """Places of the drafters of `against`, by name."""
        return {name: place for name, _, place in (entry.partition("=") for entry in self.against)}


@dataclass
class PredictionArguments:
    """What is forecast."""

    _argument_group_name: ClassVar[str] = "forecast"
    RARE: ClassVar = {"max_answers", "max_new_tokens", "draft_vocabulary", "longest_draft", "repeats"}

    drafter: str = option("", "Hub id or folder of a trained drafter (default: one of the configured shape)")
    questions: str = option(
        "", "With --drafter: question set whose completions it is replayed on (default: held-out completions)"
    )
    data: str = option("", "With --drafter: folder of rows (default: RUN_FOLDER/distill)")
    output_dir: str = option("", "Folder of table and plot (default: RUN_FOLDER/predict)")
    max_answers: int = option(60, "With --drafter: maximum number of completions that it is replayed on")
    max_new_tokens: int = option(128, "With --questions: maximum number of tokens of a completion")
    draft_vocabulary: int = option(8192, "Without --drafter: size of the draft vocabulary; 0 for all ids")
    longest_draft: int = option(16, "Maximum draft length, in tokens")
    repeats: int = option(5, "Number of timed rounds of each draft length")

    def __post_init__(self) -> None:
        check_positive(self, "max_answers", "max_new_tokens", "longest_draft", "repeats")
        if self.questions and not self.drafter:
            raise InputError("questions are completed for a trained drafter: name it with --drafter")
