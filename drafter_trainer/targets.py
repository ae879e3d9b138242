"""The target: the location and the exact revision of its weights, its tokenizer, and its chat template."""

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
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.errors import InputError, one_line
from drafter_trainer.wheels import HUB_IDS, convert_wheel

_HASHED_BYTES = 1 << 20


@dataclass(frozen=True)
class Target:
    """A target model in one exact revision.

    Args:
        name (`str`): Hub id that identifies the target in drafters, cards and row keys.
        revision (`str`): Commit on the Hub, version of the wheel, or a hash of the folder's weights.
        path (`str`): Hub id or folder for `from_pretrained`.
        chat_template (`str`, *optional*): Jinja text that replaces the tokenizer's own chat template.
        chat_template_file (`str`, *optional*): File from which `chat_template` was read.
        chat_template_kwargs (`Mapping`, *optional*): Variables of the template.
        sanitize_control_tokens (`bool`, *optional*, defaults to `False`): Whether special tokens that are written out
            in a message, such as `<|im_end|>`, are read as plain text.
        dequantized (`bool`, *optional*, defaults to `False`): Whether `path` has float32 weights that were converted
            from quantized ones.
        stop (`tuple[str, ...]`, *optional*): Characters that end a completion, in addition to the model's own end
            tokens, such as a line break for a base model with a few-shot template.
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
        """Name and revision, for records."""
        return f"{self.name}@{self.revision}"

    @property
    def hub_revision(self) -> str | None:
        """The revision for `from_pretrained`: the commit of a Hub id, `None` for a folder."""
        return None if Path(self.path).is_dir() else self.revision

    @property
    def context(self) -> int | None:
        """Maximum number of tokens that the target reads; `None` if its configuration states no number."""
        return context_of(self.load_config())

    def is_known_as(self, identity: str) -> bool:
        """Return whether an identity has these weights, under any name."""
        return identity.rpartition("@")[2] == self.revision

    def load_config(self) -> PreTrainedConfig:
        """Load the configuration."""
        return AutoConfig.from_pretrained(self.path, revision=self.hub_revision)

    def checkpoint_dtype(self) -> torch.dtype:
        """Return the dtype of the checkpoint's weights; bfloat16 if they were quantized."""
        if self.dequantized:
            return torch.bfloat16
        config = self.load_config()
        return config.dtype or config.get_text_config().dtype or torch.float32

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer, with padding on the left for batched generation; raises errors as `load_chat`."""
        return self.load_chat().tokenizer

    def load_chat(self) -> ChatTokenizer:
        """Load the tokenizer with its chat template.

        Raises:
            InputError: If the tokenizer cannot be loaded, it has no chat template, or the template does not show the
                user's text.
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
        if tokenizer.pad_token_id is None:  # padding is masked, so any token will do
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
        source = self.chat_template_file or (own if own.is_file() else f"the chat template of {self.name}")
        return ChatTokenizer(tokenizer, self.chat_template_kwargs, self.sanitize_control_tokens, str(source))

    def load_model(self, dtype: str, device: torch.device | str = "cpu") -> PreTrainedModel:
        """Load the model for inference; `dtype` is the name of a torch dtype, or "auto" for that of the checkpoint."""
        model = load_checkpoint(self.path, self.hub_revision, dtype)
        if self.stop:
            model.generation_config.eos_token_id = self.end_ids(self.load_tokenizer())
        return model.to(device).eval()

    def end_ids(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """Return the ids that end a completion: the checkpoint's end ids, and all tokens with a stop character.

        Raises:
            InputError: If `stop` has a longer string: it may be split into several tokens.
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
    """Find the weights of a target and their exact revision.

    Args:
        target_model (`str`): Hub id, `HUB_ID@REVISION`, folder, or `wheel:PACKAGE` for an installed wheel with a GGUF
            file (whole or in pieces). The GGUF file is converted once for `from_pretrained`.
        revision (`str`, *optional*): Branch, tag or commit on the Hub; defaults to that in `target_model`, or to main.
        name (`str`, *optional*): Hub id of the model in a folder or wheel; defaults to the Hub id of a known wheel,
            or to `target_model`.
        chat_template (`str`, *optional*): File with a Jinja chat template.
        stop (`Sequence[str]`, *optional*): Characters that end a completion; see `Target`.
        folder (`Path`, *optional*): Folder for the converted wheels.
        chat_template_kwargs, sanitize_control_tokens: See `Target`.
    Returns:
        `Target`.
    Raises:
        InputError: If the model does not exist, the wheel is not installed, or assisted decoding does not support the
            model.
    """
    path, from_wheel = target_model, target_model.startswith("wheel:")
    if from_wheel:
        wheel = target_model.removeprefix("wheel:")
        path, found = str(convert_wheel(wheel, folder)), f"{wheel}=={importlib.metadata.version(wheel)}"
        name = name or HUB_IDS.get(wheel)
    elif Path(target_model).is_dir():
        found = hash_folder(Path(target_model))
    else:
        target_model, named = split_revision(target_model)
        path, found = target_model, resolve_commit(target_model, revision or named, "a model")
    target = Target(
        name or target_model,
        found,
        path,
        chat_template=None if chat_template is None else _read_template(Path(chat_template)).rstrip("\n"),
        chat_template_file=chat_template,
        chat_template_kwargs=chat_template_kwargs,
        sanitize_control_tokens=sanitize_control_tokens,
        dequantized=from_wheel,
        stop=tuple(stop),
    )
    try:
        config = target.load_config()
    except (OSError, ValueError) as error:  # ValueError: the architecture is unknown to this release of transformers
        raise InputError(f"the model {target_model} cannot be read: {one_line(error)}") from error
    _check_assistable(config, target_model)
    return target


def as_target(target: str | Target | PreTrainedModel) -> Target:
    """Return the target of a Hub id, a folder, `wheel:PACKAGE`, or a model by its `name_or_path`."""
    if isinstance(target, Target):
        return target
    if isinstance(target, PreTrainedModel):
        if not target.name_or_path:
            raise InputError("the target was made in this process: save it with its tokenizer, and name the folder")
        target = target.name_or_path
    # Rows, drafters and cards show the name, so it must not be a path of this machine.
    return resolve_target(target, name=Path(target).resolve().name if Path(target).is_dir() else None)


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"chat_template {path} cannot be read: {error}") from error


def split_revision(target: str) -> tuple[str, str | None]:
    """Split `HUB_ID@REVISION`; the name of an existing file or folder is not split."""
    if Path(target).exists():
        return target, None
    name, _, revision = target.partition("@")
    return name, revision or None


def resolve_commit(repo: str, revision: str | None, kind: str, repo_type: str = "model") -> str:
    """Return the commit of a revision of a Hub repository; `kind`, such as "a model", is for the error message."""
    try:
        return huggingface_hub.HfApi().resolve_revision(repo, revision=revision, repo_type=repo_type).resolved
    except (OSError, ValueError, HTTPError, RevisionResolutionError) as error:
        raise InputError(f"{repo} is neither a folder nor {kind} on the Hub: {one_line(error)}") from error


def hash_folder(folder: Path) -> str:
    """Hash a checkpoint's configurations, tokenizer and weights, as the revision of a folder.

    Only the size and the first and last MiB of each file are hashed, so that large checkpoints take seconds.
    """
    digest = hashlib.sha256()
    weights = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not weights:
        raise InputError(f"{folder} has no model: expected config.json and safetensors files in it")
    texts = [folder / name for name in ("config.json", "generation_config.json", "tokenizer.json")]
    for path in [*filter(Path.is_file, texts), *weights]:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(_HASHED_BYTES))
            file.seek(max(0, size - _HASHED_BYTES))
            digest.update(file.read())
    return f"sha256:{digest.hexdigest()[:16]}"


def context_of(config: PreTrainedConfig) -> int | None:
    """Return the maximum number of tokens that a model reads, `None` if its configuration states no number."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def end_ids(model: PreTrainedModel) -> frozenset[int]:
    """Return the ids that end a completion of a model."""
    eos = model.generation_config.eos_token_id
    return frozenset([eos] if isinstance(eos, int) else eos or [])


def model_class_of(config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    """Return the class that generates text with a configuration, `None` if there is no such class.

    transformers does not count some multimodal families, such as Mistral 3, as causal language models.
    """
    kind = type(config)
    return MODEL_FOR_CAUSAL_LM_MAPPING.get(kind, None) or MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(kind, None)


def _check_assistable(config: PreTrainedConfig, name: str) -> None:
    model_class = model_class_of(config)
    if config.is_encoder_decoder or model_class is None:
        raise InputError(f"{name} is not a decoder-only language model ({config.model_type}): give a decoder-only one")
    if model_class._is_stateful:
        raise InputError(
            f"{name} has a recurrent state ({config.model_type}), which cannot be restored when a draft is rejected, "
            "so generate() takes no drafter for it: name a model whose layers are all attention"
        )


def load_checkpoint(path: str, revision: str | None, dtype: str | torch.dtype) -> PreTrainedModel:
    """Load a model that generates text, with all parts of a multimodal model."""
    config = AutoConfig.from_pretrained(path, revision=revision)
    model_class = model_class_of(config)
    if model_class is None:
        raise ValueError(f"a model of type {config.model_type} does not generate text")
    return model_class.from_pretrained(path, revision=revision, dtype=dtype)
