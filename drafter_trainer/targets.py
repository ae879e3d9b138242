"""The target: where its weights come from, which revision they are, and how it is asked."""

import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from huggingface_hub.errors import HTTPError, RevisionResolutionError  # the first is the client's HTTP library's
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.checkpoints import check_assistable, load_checkpoint
from drafter_trainer.errors import InputError, one_line
from drafter_trainer.wheels import HUB_IDS, convert_wheel

_HASHED_BYTES = 1 << 20


@dataclass(frozen=True)
class Target:
    """A target model in one exact revision.

    Args:
        name (`str`): Hub id by which it is known, written into drafters, cards and row keys.
        revision (`str`): Commit on the Hub, version of the wheel, or a hash of the folder's weights.
        path (`str`): What `from_pretrained` loads: a Hub id or a folder.
        chat_template (`str`, *optional*): Jinja text in place of the tokenizer's own chat template.
        chat_template_file (`str`, *optional*): Where that text was read.
        chat_template_kwargs (`Mapping`, *optional*): Variables for the template.
        sanitize_control_tokens (`bool`, *optional*, defaults to `False`): As for `ChatTokenizer`.
        dequantized (`bool`, *optional*, defaults to `False`): Whether `path` holds float32 weights that were made of
            quantized ones.
        stop (`tuple[str, ...]`, *optional*): Characters that end a completion besides the model's own end tokens, such
            as a line break for a base model that is asked with examples.
    """

    name: str
    revision: str
    path: str
    chat_template: str | None = None
    chat_template_file: str | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None
    sanitize_control_tokens: bool = False
    dequantized: bool = False
    stop: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """Name and revision in one, for the record of what was read."""
        return f"{self.name}@{self.revision}"

    @property
    def hub_revision(self) -> str | None:
        """The revision to pass to `from_pretrained`: a commit for a Hub id, `None` for a folder."""
        return None if Path(self.path).is_dir() else self.revision

    def checkpoint_dtype(self) -> torch.dtype:
        """Return the dtype of the checkpoint's weights: bfloat16, of the same range, if they were quantized."""
        if self.dequantized:
            return torch.bfloat16
        config = self.load_config()
        return config.dtype or config.get_text_config().dtype or torch.float32

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer, padding on the left as batched generation needs it; `load_chat` says what is raised."""
        return self.load_chat().tokenizer

    def load_chat(self) -> ChatTokenizer:
        """Load the tokenizer together with what renders conversations for it.

        Raises:
            InputError: If it cannot be loaded, neither it nor the configuration has a chat template, or the template
                does not show what a user asks.
        """
        own = Path(self.path) / "chat_template.jinja"
        if own.is_file():
            _read_template(own)
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.path, revision=self.hub_revision, padding_side="left")
        except (OSError, ValueError) as error:
            raise InputError(f"the tokenizer of {self.name} cannot be loaded: {one_line(error)}") from error
        if self.chat_template is not None:
            tokenizer.chat_template = self.chat_template
        if tokenizer.chat_template is None:
            raise InputError(f"the tokenizer of {self.name} has no chat template: give one as chat_template")
        if tokenizer.pad_token_id is None:  # padding is masked: any token will do
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
        source = self.chat_template_file or (own if own.is_file() else f"the chat template of {self.name}")
        return ChatTokenizer(tokenizer, self.chat_template_kwargs, self.sanitize_control_tokens, str(source))

    def load_config(self) -> PreTrainedConfig:
        """Load the configuration."""
        return AutoConfig.from_pretrained(self.path, revision=self.hub_revision)

    @property
    def context(self) -> int | None:
        """Tokens that it reads at most; `None` where its configuration states no number."""
        return context_of(self.load_config())

    def is_known_as(self, identity: str) -> bool:
        """Tell whether an identity is of these weights, under whatever name."""
        return identity.rpartition("@")[2] == self.revision

    def load_model(self, dtype: str, device: torch.device | str = "cpu") -> PreTrainedModel:
        """Load the model for inference.

        Args:
            dtype (`str`): "float32", "bfloat16", "float16", or "auto" for the one of the checkpoint.
        """
        model = load_checkpoint(self.path, self.hub_revision, dtype)
        if self.stop:
            model.generation_config.eos_token_id = self.end_ids(self.load_tokenizer())
        return model.to(device).eval()

    def end_ids(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """List the ids that end a completion: the checkpoint's own, and those of all tokens that contain a stop.

        Raises:
            InputError: If a stop is no single character: the tokens of a longer one may be written apart.
        """
        if long := [stop for stop in self.stop if len(stop) != 1]:
            raise InputError(f"stop must list single characters such as a line break, got {long[0]!r}")
        try:
            own = GenerationConfig.from_pretrained(self.path, revision=self.hub_revision).eos_token_id
        except OSError:  # not every checkpoint has one
            own = None
        own = tokenizer.eos_token_id if own is None else own
        ids = {own} if isinstance(own, int) else set(own or ())
        if self.stop:
            texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
            ids.update(token for token, text in enumerate(texts) if any(stop in text for stop in self.stop))
        return sorted(ids)


def context_of(config: PreTrainedConfig) -> int | None:
    """Return how many tokens a model reads at most, `None` where its configuration states no number."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def end_ids(model: PreTrainedModel) -> frozenset[int]:
    """Return the ids that end what a model says."""
    eos = model.generation_config.eos_token_id
    return frozenset([eos] if isinstance(eos, int) else eos or [])


def resolve_target(
    target_model: str,
    revision: str | None = None,
    name: str | None = None,
    chat_template: str | None = None,
    stop: Sequence[str] = (),
    folder: Path = Path("runs/targets"),
    chat_template_kwargs: Mapping[str, Any] | None = None,
    sanitize_control_tokens: bool = False,
) -> Target:
    """Find a target's weights and say exactly which they are.

    Args:
        target_model (`str`): Hub id, alone or as `HUB_ID@REVISION`, folder, or `wheel:PACKAGE` for an installed wheel
            that carries one GGUF file, or requires wheels that carry its pieces; it is converted once to a folder that
            `from_pretrained` loads.
        revision (`str`, *optional*): Branch, tag or commit on the Hub; main if left out here and in `target_model`.
        name (`str`, *optional*): Hub id by which a folder or wheel is known; defaults to that of a known wheel, or
            to `target_model`.
        chat_template (`str`, *optional*): File with a Jinja chat template.
        stop (`Sequence[str]`, *optional*): See `Target`.
        folder (`Path`, *optional*): Where converted wheels are kept.
        chat_template_kwargs, sanitize_control_tokens: As for `ChatTokenizer`.
    Raises:
        InputError: If it does not exist, the wheel is not installed, or no drafter can speed it up.
    """
    how = {
        "chat_template": None if chat_template is None else _read_template(Path(chat_template)).rstrip("\n"),
        "chat_template_file": chat_template,
        "chat_template_kwargs": chat_template_kwargs,
        "sanitize_control_tokens": sanitize_control_tokens,
        "stop": tuple(stop),
    }
    if target_model.startswith("wheel:"):
        wheel = target_model.removeprefix("wheel:")
        path, found = str(convert_wheel(wheel, folder)), f"{wheel}=={importlib.metadata.version(wheel)}"
        name = name or HUB_IDS.get(wheel)
    elif Path(target_model).is_dir():
        path, found = target_model, hash_folder(Path(target_model))
    else:
        target_model, named = split_revision(target_model)
        path, found = target_model, resolve_commit(target_model, revision or named, "a model")
    target = Target(name or target_model, found, path, dequantized=target_model.startswith("wheel:"), **how)
    try:
        config = target.load_config()
    except (OSError, ValueError) as error:  # ValueError: a configuration of no architecture that is known here
        raise InputError(f"target {target_model} is no readable model: {one_line(error)}") from error
    check_assistable(config, target_model)
    return target


def split_revision(place: str) -> tuple[str, str | None]:
    """Split `HUB_ID@REVISION`; what exists here as a file or folder is no Hub id."""
    if Path(place).exists():
        return place, None
    name, _, revision = place.partition("@")
    return name, revision or None


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"chat_template {path} cannot be read: {error}") from error


def as_target(target: "str | Target | PreTrainedModel") -> Target:
    """Return the target that a function of the library was given.

    Args:
        target (`str`, `Target` or `PreTrainedModel`): Hub id, folder, `wheel:PACKAGE`, a resolved target, or a loaded
            model, which is known by where it was loaded from.
    """
    if isinstance(target, Target):
        return target
    if isinstance(target, PreTrainedModel):
        if not target.name_or_path:
            raise InputError("the target was made in this process: save it with its tokenizer, and name the folder")
        target = target.name_or_path
    # Rows, drafters and cards name the target, and a path of this machine is no name.
    return resolve_target(target, name=Path(target).resolve().name if Path(target).is_dir() else None)


def resolve_commit(repo: str, revision: str | None, what: str, repo_type: str = "model") -> str:
    """Return the commit that a Hub repository's revision stands for."""
    try:
        return huggingface_hub.HfApi().resolve_revision(repo, revision=revision, repo_type=repo_type).resolved
    except (OSError, ValueError, HTTPError, RevisionResolutionError) as error:
        raise InputError(f"{repo} is neither a folder nor {what} on the Hub: {one_line(error)}") from error


def hash_folder(folder: Path) -> str:
    """Hash a checkpoint's configurations, tokenizer and weights, for a revision where no commit names them.

    Of each file its size and its first and last MiB are taken: seconds also for hundreds of gigabytes.
    """
    digest = hashlib.sha256()
    weights = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not weights:
        raise InputError(f"{folder} is no model: expected config.json and safetensors files in it")
    texts = [folder / name for name in ("config.json", "generation_config.json", "tokenizer.json")]
    for path in [*filter(Path.is_file, texts), *weights]:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(_HASHED_BYTES))
            file.seek(max(0, size - _HASHED_BYTES))
            digest.update(file.read())
    return f"sha256:{digest.hexdigest()[:16]}"
