"""Options of the steps that measure: tune, bench, judge, route and predict."""

from dataclasses import dataclass
from typing import ClassVar

from drafter_trainer.cli.options import check_known, check_one_of, check_positive, option
from drafter_trainer.drafters.loop.policy import SOURCES
from drafter_trainer.drafters.ngram import LEAST_BYTES
from drafter_trainer.errors import InputError


@dataclass
class TuningArguments:
    """The data that a drafter's settings are tuned on."""

    _argument_group_name: ClassVar[str] = "tuning"
    RARE: ClassVar = {
        "max_answers", "other_tasks", "table_samples", "table_bytes", "evaluation_questions", "on_bad_rows",
        "longest_draft", "repeats", "costs",
    }  # fmt: skip

    data: str = option("", "Folder of rows (default: RUN_FOLDER/distill)")
    table_corpus: list[str] = option(
        [],
        "Corpora for n-gram tables besides the completions: text by name, or rows:FOLDER of a distillation",
    )
    publish: bool = option(True, "Whether the drafter is published at the end")
    max_answers: int = option(60, "Maximum number of held-out completions that settings are tried on")
    other_tasks: list[str] = option(
        [], "Folders of rows of other tasks, whose held-out completions count as much as the first task's"
    )
    table_samples: int | None = option(None, "Maximum number of documents of each table corpus")
    table_bytes: int = option(1 << 21, "Maximum size of an n-gram table's file in bytes; smaller ones are tried too")
    evaluation_questions: list[str] = option(["sample"], "Question sets that the tables are decontaminated from")
    on_bad_rows: str = option("error", "Malformed rows of a table corpus: error, or skip to drop and count them")
    longest_draft: int = option(32, "Maximum draft length, in tokens, that is timed and tried")
    repeats: int = option(5, "Number of timed rounds of each draft length")
    costs: str = option("", "Folder of another tuning on the same machine, whose times of the target are used")

    def __post_init__(self) -> None:
        check_positive(self, "max_answers", "table_samples", "longest_draft", "repeats")
        check_one_of(self, "on_bad_rows", ("error", "skip"))
        if self.table_bytes < LEAST_BYTES:
            raise InputError(f"table_bytes must be {LEAST_BYTES} or more, got {self.table_bytes}")

    @property
    def skips_bad_rows(self) -> bool:
        """Whether malformed rows are dropped."""
        return self.on_bad_rows == "skip"


@dataclass
class BenchmarkArguments:
    """What is measured."""

    _argument_group_name: ClassVar[str] = "benchmark"
    RARE: ClassVar = {
        "categories", "turns", "max_sampling_questions", "save_outputs", "seeds", "follow_clock",
        "prompt_lookup_tokens", "pretrained_drafter", "without", "alone", "stock_loop", "medusa", "eagle",
        "early_exit_layer", "early_exit_length", "engine_python", "engine_options", "requests_at_once",
        "target_gguf",
    }  # fmt: skip

    drafter: str = option("", "Hub id or folder of the drafter (default: RUN_FOLDER/drafter)")
    task: str = option("translation", "Task by name, whose options come from its file in drafter_trainer/cli/tasks")
    questions: str = option("sample", "sample, a parallel corpus, file:PATH, mt-bench, or a Spec-Bench file")
    max_questions: int | None = option(None, "Maximum number of questions; each turn counts (default: all)")
    temperatures: list[float] = option([0.0, 1.0], "Sampling temperatures; 0 is greedy")
    max_new_tokens: int = option(128, "Maximum number of tokens of a completion")
    repeats: int = option(1, "Number of timings of each prompt, odd; the median counts")
    against: list[str] = option([], "Other drafters to measure, each as NAME=FOLDER or NAME=HUB_ID")
    baselines: list[str] = option([], "Baselines to measure: lookahead, medusa, eagle, early_exit")
    out: str = option("", "Folder of results.json (default: RUN_FOLDER; of another task: RUN_FOLDER/tasks/TASK)")
    categories: list[str] = option([], "Categories of a Spec-Bench file that are asked (default: all)")
    turns: int = option(1, "Number of turns of a conversation that are asked, each after plain decoding's completions")
    max_sampling_questions: int | None = option(None, "Maximum number of questions at temperatures above 0")
    seeds: list[int] = option([0, 1, 2], "Seeds of each temperature above 0")
    save_outputs: bool = option(False, "Whether every method's completions are written to outputs.jsonl")
    follow_clock: bool = option(True, "Whether greedy drafts adapt to measured times; false: two runs draft alike")
    prompt_lookup_tokens: list[int] = option([10], "Draft lengths of prompt lookup, each of them a method")
    pretrained_drafter: str | None = option(
        None, "The drafter before finetuning: Hub id or folder (default: pretrain/ beside the drafter's folder)"
    )
    without: list[str] = option([], "Draft sources to leave out, one at a time: lookup, ngram, network")
    alone: list[str] = option([], "Draft sources to measure alone: lookup, ngram, network")
    stock_loop: bool = option(False, "Whether the drafter in transformers' own loop is measured too")
    medusa: str = option("", "Folder of Medusa heads (default: RUN_FOLDER/medusa)")
    eagle: str = option("", "Folder of an EAGLE layer (default: RUN_FOLDER/eagle)")
    early_exit_layer: int | None = option(None, "Number of layers that early exit drafts with (default: half of them)")
    early_exit_length: int = option(3, "Draft length of early exit, in tokens")
    engine: str = option("", "Engine to measure in, greedily: vllm or llamacpp (default: transformers, batch 1)")
    engine_python: str | None = option(
        None, "Interpreter of the environment with vLLM or xllamacpp (default: this one; llama-server)"
    )
    engine_options: str = option("", "Further options of the engine, as --engine_options='--dtype float32'")
    requests_at_once: list[int] = option([1, 4, 16], "Numbers of concurrent requests to an engine, each a run")
    target_gguf: str | None = option(None, "The target's GGUF file, for llamacpp (default: its wheel's)")

    def __post_init__(self) -> None:
        if not self.temperatures or min(self.temperatures) < 0:
            raise InputError(f"temperatures must be 0 or more, got {self.temperatures}")
        check_positive(self, "max_new_tokens", "max_questions", "max_sampling_questions", "repeats", "turns")
        if self.repeats % 2 == 0:
            raise InputError(f"repeats must be odd, so that their median was measured itself, got {self.repeats}")
        if len(self.others) < len(self.against) or any(not name or not place for name, place in self.others.items()):
            raise InputError(f"against takes NAME=FOLDER_OR_HUB_ID, each name once, got {' '.join(self.against)}")
        check_known(self, "without", SOURCES)
        if min(self.prompt_lookup_tokens, default=0) < 1:
            raise InputError(f"prompt_lookup_tokens must be 1 or more, got {self.prompt_lookup_tokens}")
        check_positive(self, "early_exit_layer", "early_exit_length")
        check_known(self, "alone", SOURCES)
        check_known(self, "baselines", ("lookahead", "medusa", "eagle", "early_exit"))

    @property
    def others(self) -> dict[str, str]:
        """Places of the drafters of `against`, by name."""
        return {name: place for name, _, place in (entry.partition("=") for entry in self.against)}


@dataclass
class JudgeArguments:
    """Which model grades which completions."""

    _argument_group_name: ClassVar[str] = "judge"

    outputs: str = option("", "Folder of an outputs.jsonl, which bench --save_outputs true writes")
    servers: list[str] = option([], "OpenAI-compatible servers such as http://host:8000; key in OPENAI_API_KEY")
    judge_model: str = option("", "The servers' name for the judge")
    concurrency: int = option(8, "Requests in flight at each server")

    def __post_init__(self) -> None:
        if not self.outputs or not self.servers or not self.judge_model:
            raise InputError("give --outputs FOLDER --servers http://HOST:PORT --judge_model NAME")
        check_positive(self, "concurrency")


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
    out: str = option("", "Folder of table and plot (default: RUN_FOLDER/predict)")
    max_answers: int = option(60, "With --drafter: maximum number of completions that it is replayed on")
    max_new_tokens: int = option(128, "With --questions: maximum number of tokens of a completion")
    draft_vocabulary: int = option(8192, "Without --drafter: size of the draft vocabulary; 0 for all ids")
    longest_draft: int = option(16, "Maximum draft length, in tokens")
    repeats: int = option(5, "Number of timed rounds of each draft length")

    def __post_init__(self) -> None:
        check_positive(self, "max_answers", "max_new_tokens", "longest_draft", "repeats")
        if self.questions and not self.drafter:
            raise InputError("questions are completed for a trained drafter: name it with --drafter")


@dataclass
class RouteArguments:
    """The drafters of the router, and the questions that it is measured on."""

    _argument_group_name: ClassVar[str] = "router"

    drafters: list[str] = option([], "Hub ids or folders of drafters, one for each pair")
    questions: str = option("sample", "sample, or a Spec-Bench file with translations of all the pairs")
    max_questions: int | None = option(None, "Maximum number of questions of each pair (default: all)")
    max_new_tokens: int = option(128, "Maximum number of tokens of a completion")
    repeats: int = option(1, "Number of timings of each prompt, odd; the median counts")
    out: str = option("runs/route", "Folder of results.json and its report")

    def __post_init__(self) -> None:
        if not self.drafters:
            raise InputError("no drafters: give --drafters FOLDER_OR_HUB_ID ...")
        check_positive(self, "max_questions", "max_new_tokens", "repeats")
        if self.repeats % 2 == 0:
            raise InputError(f"repeats must be odd, so that their median was measured itself, got {self.repeats}")
