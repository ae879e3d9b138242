"""Arguments of the recipes bench, judge and route, and of baselines."""

from dataclasses import dataclass

from drafter_trainer.cli.options import check_known, check_positive, option
from drafter_trainer.drafters.loop.policy import SOURCES
from drafter_trainer.errors import InputError


@dataclass
class BenchmarkArguments:
    """Say what is measured."""

    drafter: str = option("", "Hub id or folder of the drafter (default: RUN_FOLDER/drafter)")
    pretrained_drafter: str | None = option(
        None, "The drafter before finetuning: Hub id or folder (default: pretrain/ beside the drafter's folder)"
    )
    task: str = option("translation", "What is measured: its options come from recipes/configs/tasks/TASK.yaml")
    questions: str = option("sample", "sample, a parallel corpus, file:PATH, mt-bench, or a Spec-Bench file")
    categories: list[str] = option([], "Of a Spec-Bench file: ask the questions of these categories alone")
    turns: int = option(1, "Of a question with several turns: ask so many, each after plain decoding's own answers")
    max_questions: int | None = option(None, "Ask the first so many; each turn counts")
    max_sampling_questions: int | None = option(None, "Ask the first so many at temperatures above 0")
    out: str = option("", "Folder of results.json (default: RUN_FOLDER; of another task: RUN_FOLDER/tasks/TASK)")
    save_outputs: bool = option(False, "Also write outputs.jsonl: every method's answers, for recipes/judge.py")
    temperatures: list[float] = option([0.0, 1.0], "0 is greedy")
    seeds: list[int] = option([0, 1, 2], "Of each temperature above 0")
    max_new_tokens: int = option(128, "Length limit of an answer")
    repeats: int = option(1, "Time each prompt so often, an odd number, and take the median")
    follow_clock: bool = option(True, "Whether greedy drafts learn costs from the clock; false: two runs draft alike")
    prompt_lookup_tokens: list[int] = option([10], "Tokens that prompt lookup drafts in one round, each a method")
    without: list[str] = option([], "Also measure the drafter without lookup, ngram or network, where it asks them")
    alone: list[str] = option([], "Also measure the drafter with lookup, ngram or network alone")
    against: list[str] = option([], "Also measure these drafters, each as NAME=FOLDER or NAME=HUB_ID")
    stock_loop: bool = option(False, "Also measure the drafter in transformers' own loop")
    baselines: list[str] = option([], "Also measure methods of the literature: lookahead, medusa, eagle, early_exit")
    lookahead: list[int] = option([5, 4, 5], "Baseline lookahead: window, tokens of an n-gram, n-grams tried at once")
    medusa: str = option("", "Baseline medusa: folder of its heads (default: RUN_FOLDER/medusa)")
    eagle: str = option("", "Baseline eagle: folder of its layer (default: RUN_FOLDER/eagle)")
    tree_nodes: int = option(12, "Baselines medusa and eagle: guesses of a tree, which one pass verifies")
    early_exit_layer: int | None = option(
        None, "Baseline early_exit: layers that draft (default: half of the target's)"
    )
    early_exit_length: int = option(3, "Baseline early_exit: tokens drafted in one round")
    engine: str = option("", "Measure in vllm or llamacpp, greedily (default: in transformers, batch 1)")
    engine_python: str | None = option(
        None, "Interpreter of the environment with vLLM or xllamacpp (default: this one; llama-server)"
    )
    engine_options: str = option("", "More words for the engine, as --engine_options='--dtype float32'")
    requests_at_once: list[int] = option([1, 4, 16], "Requests that an engine answers at once, each a run")
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
        check_positive(self, "tree_nodes", "early_exit_layer", "early_exit_length")
        check_known(self, "alone", SOURCES)
        check_known(self, "baselines", ("lookahead", "medusa", "eagle", "early_exit"))
        if len(self.lookahead) != 3 or min(self.lookahead) < 1 or self.lookahead[1] < 2:
            raise InputError(f"lookahead must be three numbers from 1 on, the second from 2 on, got {self.lookahead}")

    @property
    def others(self) -> dict[str, str]:
        """Places of the drafters of `against`, by name."""
        return {name: place for name, _, place in (entry.partition("=") for entry in self.against)}


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
class BaselineArguments:
    """Say what a baseline of the literature is trained on."""

    data: list[str] = option([], "Folders of self-distilled rows, taken together (default: RUN_FOLDER/distill)")
    max_train_samples: int | None = option(None, "Train on so many of their rows, chosen by chance with --seed")

    def __post_init__(self) -> None:
        check_positive(self, "max_train_samples")


@dataclass
class MedusaArguments(BaselineArguments):
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
