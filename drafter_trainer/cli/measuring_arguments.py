"""Options of the steps that measure: tune, bench and predict."""

from drafter_trainer.cli.options import check_known, option, options, parameters
from drafter_trainer.corpora.tasks import TASKS, TRANSLATION
from drafter_trainer.drafters.loop.sources import SOURCES
from drafter_trainer.errors import InputError
from drafter_trainer.pipeline.benchmark import benchmark
from drafter_trainer.pipeline.engine_benchmark import benchmark_engine
from drafter_trainer.pipeline.predict import predict
from drafter_trainer.pipeline.tune import tune

STOCK_LOOP = "stock_loop"  # the drafter itself, in transformers' own loop
BASELINES = (STOCK_LOOP, "lookahead", "medusa", "eagle", "early_exit")

_TUNING = {
    "data": option("", "Folder of rows (default: RUN_FOLDER/distill)"),
    "table_corpus": option([], "Corpora of text by name that n-gram tables are counted on besides the completions"),
    **parameters(tune, "sources"),
    "max_samples": option([], "Maximum number of documents of each table corpus", list[int]),
    "evaluation_questions": option(["sample"], "Question sets that the tables are decontaminated from"),
    "draft_length": parameters(tune, "longest_draft")["longest_draft"],
}


class TuningArguments(options("tuning", _TUNING)):
    """The data that a drafter's settings are tuned on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_known(self, "sources", SOURCES)


_BENCHMARK = {
    "drafter": option("", "Hub id or folder of the drafter (default: RUN_FOLDER/drafter)"),
    "task": option(TRANSLATION, f"Task by name: {', '.join(TASKS)}"),
    "questions": option(
        "", "sample, a parallel corpus, file:PATH, mt-bench, or a Spec-Bench file (default: sample, or the task's own)"
    ),
    **parameters(benchmark, "max_questions", "temperatures", "max_new_tokens"),
    "against": option([], "Other drafters to measure, each as NAME=FOLDER or NAME=HUB_ID"),
    "baselines": option([], f"Baselines to measure: {', '.join(BASELINES)}"),
    "output_dir": option("", "Folder of results.json (default: RUN_FOLDER, or RUN_FOLDER/tasks/TASK)"),
    **parameters(benchmark, "max_sampling_questions", "seeds", "prompt_lookup_tokens", "without", "alone"),
    "engine": option("", "Engine to measure in, greedily: vllm or llamacpp (default: transformers, at batch size 1)"),
    "engine_python": option(
        None, "Python of the environment with vLLM or xllamacpp (default: this one, or llama-server)", str | None
    ),
    **parameters(benchmark_engine, "target_gguf"),
}


class BenchmarkArguments(options("benchmark", _BENCHMARK)):
    """What is measured."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperatures or min(self.temperatures) < 0:
            raise InputError(f"temperatures must be 0 or more, got {self.temperatures}")
        if len(self.others) < len(self.against) or any(not name or not place for name, place in self.others.items()):
            raise InputError(f"against takes NAME=FOLDER_OR_HUB_ID, each name once, got {' '.join(self.against)}")
        if min(self.prompt_lookup_tokens, default=0) < 1:
            raise InputError(f"prompt_lookup_tokens must be 1 or more, got {self.prompt_lookup_tokens}")
        check_known(self, "task", TASKS)
        check_known(self, "without", SOURCES)
        check_known(self, "alone", SOURCES)
        check_known(self, "baselines", BASELINES)

    @property
    def others(self) -> dict[str, str]:
        """Places of the drafters of `against`, by name."""
        return {name: place for name, _, place in (entry.partition("=") for entry in self.against)}


_PREDICTION = {
    **parameters(predict, "drafter", "questions"),
    "data": option("", "With --drafter: folder of rows (default: RUN_FOLDER/distill)"),
    "output_dir": option("", "Folder of predict.json (default: RUN_FOLDER/predict)"),
    **parameters(predict, "max_new_tokens"),
    "draft_vocabulary": option(8192, "Without --drafter: size of the draft vocabulary; 0 for all ids"),
}


class PredictionArguments(options("forecast", _PREDICTION, may_be_zero={"draft_vocabulary"})):
    """What is forecast."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.questions and not self.drafter:
            raise InputError("questions are completed for a trained drafter: name it with --drafter")
