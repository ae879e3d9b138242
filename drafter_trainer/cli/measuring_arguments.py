"""Options of the steps that tune, measure, export or serve a drafter."""

from dataclasses import MISSING, dataclass
from typing import Any

from drafter_trainer.cli.options import Options, check_limits, option, parameter
from drafter_trainer.corpora.tasks import TASKS, TRANSLATION
from drafter_trainer.drafters.loop.sources import SOURCES
from drafter_trainer.errors import InputError
from drafter_trainer.hub.export.engines import ENGINES, export_drafter
from drafter_trainer.pipeline.benchmark import benchmark
from drafter_trainer.pipeline.predict import predict
from drafter_trainer.pipeline.tune import tune
from drafter_trainer.serving.commands import NETWORK, WHOLE
from drafter_trainer.serving.engines import serve

STOCK_LOOP = "stock_loop"
LITERATURE = ("lookahead", "medusa", "eagle", "early_exit")  # in benchmarks/baselines of a clone
_LLAMACPP = "llamacpp"
_ENGINE_PYTHON = "Python of the environment with vLLM or xllamacpp (default: this Python, or llama-server)"


@dataclass
class TuningArguments(Options, group="tuning"):
    """The drafter, its sources, and the completions on which settings are tried."""

    data: list[str] = option([], "Folders of rows, one for each task, of equal weight (default: RUN_FOLDER/distill)")
    drafter: str = option("", "Folder of the drafter; a copy of it is tuned (default: RUN_FOLDER/finetune)")
    sources: list[str] = parameter(tune, "sources")
    draft_length: int = parameter(tune, "longest_draft")
    costs: str | None = parameter(tune, "costs")


@dataclass
class BenchmarkArguments(Options, group="benchmark"):
    """The measured drafter, its questions, and its baselines."""

    drafter: str = option("", "Hub id or folder of the drafter (default: RUN_FOLDER/drafter)")
    task: str = option(TRANSLATION, f"Task by name: {', '.join(TASKS)}")
    questions: str = option(
        "", "sample, a parallel corpus, file:PATH, mt-bench, or a Spec-Bench file (default: sample, or the task's own)"
    )
    max_questions: list[int] = option([], "Maximum numbers of questions: greedy, and with sampling, such as 16 4")
    temperatures: list[float] = parameter(benchmark, "temperatures")
    max_new_tokens: int = parameter(benchmark, "max_new_tokens")
    baselines: list[str] = option(
        [],
        "Baselines in addition to plain decoding: lookup:10 (prompt lookup with drafts of 10 tokens, the default), "
        "without:SOURCE (the drafter without lookup, ngram or network), alone:SOURCE (the drafter with this source "
        f"only), NAME=FOLDER_OR_HUB_ID (another drafter), {STOCK_LOOP} (the drafter in transformers' own loop), and "
        f"in a clone {', '.join(LITERATURE)}",
    )
    output_dir: str = option("", "Folder of results.json (default: RUN_FOLDER, or RUN_FOLDER/tasks/TASK)")
    engine: str = option(
        "", "Engine of greedy measurements: vllm, llamacpp, or llamacpp:TARGET.gguf (default: transformers, batch 1)"
    )
    engine_python: str | None = option(None, _ENGINE_PYTHON)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_limits("max_questions", self.max_questions)
        if not self.temperatures or min(self.temperatures) < 0:
            raise InputError(f"temperatures must be 0 or more, got {self.temperatures}")
        if self.task not in TASKS:
            raise InputError(f"task must be one of {', '.join(TASKS)}, got {self.task}")
        self.engine, _, file = self.engine.partition(":")
        self.target_gguf = file or None
        self._read_baselines()

    def _read_baselines(self) -> None:
        self.literature = [name for name in self.baselines if name in LITERATURE]
        self.compared: dict[str, Any] = {"stock_loop": STOCK_LOOP in self.baselines}
        lengths, sources, others = [], {"without": [], "alone": []}, {}
        for entry in self.baselines:
            kind, _, value = entry.partition(":")
            name, _, location = entry.partition("=")
            if name and location and name not in others:
                others[name] = location
            elif kind == "lookup" and value.isdecimal() and int(value) > 0:
                lengths.append(int(value))
            elif kind in sources and value in SOURCES:
                sources[kind].append(value)
            elif entry not in (STOCK_LOOP, *LITERATURE):
                raise InputError(
                    "baselines must be lookup:TOKENS, without:SOURCE, alone:SOURCE, NAME=FOLDER_OR_HUB_ID (each name "
                    f"once), {', '.join((STOCK_LOOP, *LITERATURE))}, got {entry}"
                )
        self.compared |= sources | {"against": others} | ({"prompt_lookup_tokens": lengths} if lengths else {})

    @property
    def limits(self) -> dict[str, int | None]:
        """Maximum number of questions, as parameters of `benchmark`."""
        greedy, sampled, *_ = [*self.max_questions, None, None]
        return {"max_questions": greedy, "max_sampling_questions": sampled}


@dataclass
class PredictionArguments(Options, group="forecast", may_be_zero=["draft_vocabulary"]):
    """The drafter of the forecast."""

    drafter: str = parameter(predict, "drafter")
    questions: str = parameter(predict, "questions")
    data: str = option("", "With --drafter: folder of rows (default: RUN_FOLDER/distill)")
    output_dir: str = option("", "Folder of predict.json (default: RUN_FOLDER/predict)")
    max_new_tokens: int = parameter(predict, "max_new_tokens")
    draft_vocabulary: int = option(8192, "Without --drafter: size of the draft vocabulary; 0 for all ids")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.questions and not self.drafter:
            raise InputError("questions need a trained drafter: give --drafter")


@dataclass
class ExportArguments(Options, group="export"):
    """The engines that a drafter is exported for."""

    drafter: str | None = option(None, "Hub id or folder of a published drafter (default: RUN_FOLDER/drafter)")
    output_dir: str | None = option(None, "Folder of the engines' files (default: RUN_FOLDER/export)")
    engine: list[str] = option(
        [*ENGINES],
        f"Engines: {', '.join(ENGINES)}; {_LLAMACPP}:TARGET.gguf copies the tokenizer from the target's file",
    )
    draft_length: int | None = parameter(export_drafter, "draft_length")

    def __post_init__(self) -> None:
        super().__post_init__()
        split = [entry.partition(":") for entry in self.engine]
        self.engines = [engine for engine, _, _ in split]
        self.target_gguf = next((file for engine, _, file in split if engine == _LLAMACPP and file), None)


@dataclass
class ServingArguments(Options, group="server"):
    """The engine that serves a target with its drafter."""

    target_model: str = option(
        MISSING, "Hub id or folder of the target; for llamacpp its GGUF file", aliases=["--target"]
    )
    drafter: str = option(MISSING, "Hub id or folder of the published drafter; for llamacpp the folder of its export")
    engine: str = parameter(serve, "engine")
    sources: list[str] = option([], "In vLLM: network to draft with the network only (default: the whole drafter)")
    draft_length: int | None = parameter(serve, "draft_length")
    engine_python: str | None = option(None, _ENGINE_PYTHON)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sources not in ([], [NETWORK]):
            raise InputError(f"sources of an engine must be empty or {NETWORK}, got {' '.join(self.sources)}")
        self.part = NETWORK if self.sources else WHOLE  # parameter of `serve`
