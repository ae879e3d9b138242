"""Load a published drafter for its target."""

import copy
import dataclasses
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from drafter_trainer.drafters.compact import COMPACT, embeddings_and_head, read_compact
from drafter_trainer.drafters.compatibility import compare_with_trained, find_difference, fit_vocabulary
from drafter_trainer.drafters.loop.build import build_loop
from drafter_trainer.drafters.loop.drafting import DraftingLoop
from drafter_trainer.drafters.loop.generate import attach_loop, loop_of, set_draft_length
from drafter_trainer.drafters.loop.network_kinds import build_network
from drafter_trainer.drafters.loop.networkless import MODEL_TYPE, NetworklessConfig, NetworklessDrafter
from drafter_trainer.drafters.loop.settings import LoopSettings
from drafter_trainer.drafters.loop.sources import NETWORK
from drafter_trainer.drafters.memory import CompletionMemory
from drafter_trainer.drafters.repository import Repository
from drafter_trainer.errors import InputError, one_line
from drafter_trainer.results import Headline

_logger = logging.getLogger(__name__)

# With this package, a repository without a network loads without its own copy of the code.
AutoConfig.register(MODEL_TYPE, NetworklessConfig)
AutoModelForCausalLM.register(NetworklessConfig, NetworklessDrafter)

# Raised by transformers for malformed configurations or weights, besides its intended errors
_UNREADABLE = (OSError, SafetensorError, ValueError, TypeError, LookupError, AttributeError, RuntimeError)


def load_drafter(
    drafter: str,
    target_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    revision: str | None = None,
    follow_clock: bool = True,
    memory: CompletionMemory | None = None,
) -> PreTrainedModel:
    """Load a drafter, checked against its target, ready for `target.generate(assistant_model=...)`.

    A drafter keeps the state of the current text, so it serves one call of `generate` at a time: load a drafter for
    each thread. transformers accepts assistants only at batch size 1: call `generate` for each prompt.

    One line states the measured speed and the machine of the measurement. It is logged as a warning, the lowest level
    that Python shows by default; `logging.getLogger("drafter_trainer").setLevel("ERROR")` silences it.

    Args:
        drafter (`str`): Hub id or folder of a published drafter.
        target_model (`PreTrainedModel`): The target; the drafter gets its device, its dtype, and the size of its
            vocabulary.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): The target's tokenizer; by default it is loaded from the
            target's folder or Hub id.
        revision (`str`, *optional*): Branch, tag or commit of the drafter on the Hub.
        follow_clock (`bool`, *optional*, defaults to `True`): Whether greedy drafting measures the time of
            verification passes and network steps while it runs. With `False` it uses the times that tuning stored for
            this type of device, or generic times. The same prompt then gets the same drafts each time. On one machine,
            it also gets the same output in half precision, in which the length of a draft changes the rounding.
        memory (`CompletionMemory`, *optional*): Earlier completions of the target: the drafter drafts from them, and
            adds each new completion. By default nothing is remembered.
    Returns:
        `PreTrainedModel` in evaluation mode, whose `generate` runs the drafting loop when the target calls it.
    Raises:
        InputError: If there is no such drafter, its files are damaged or cannot be read, it lacks a part of the
            target's vocabulary, or the target's tokenizer is neither given nor found.
        IncompatibleTokenizerError: If the target's tokenizer encodes text differently from the tokenizer of
            training, or the memory belongs to another tokenizer.
    Warns:
        UserWarning: If the target is not the target of training, such as a finetune of it, or its tokenizer has more
            tokens or another end token. The warning states the acceptance that was measured for the original target.
    """
    if not isinstance(target_model, PreTrainedModel):
        raise InputError(
            f"target_model must be the loaded model, got {type(target_model).__name__}: load it with "
            "AutoModelForCausalLM.from_pretrained"
        )
    device, repository = _device_of(target_model), Repository.open(drafter, revision)
    if tokenizer is None:
        tokenizer = load_target_tokenizer(target_model)
    if memory is not None:
        memory.bind(tokenizer)
    vocabulary, dtype = target_model.config.get_text_config().vocab_size, _dtype_of(target_model)
    shared = lambda: embeddings_and_head(target_model)  # noqa: E731
    model, loop, difference = open_drafter(repository, tokenizer, vocabulary, dtype, device, shared, follow_clock)
    attach_loop(model, loop)
    loop.memory = memory
    description, results = repository.description, repository.headline()
    if difference:
        difference = f"has another tokenizer ({difference}) than the one"
    if difference := find_difference(target_model, description) or difference:
        accepted = results.acceptance if isinstance(results, Headline) else f"nothing, it {results}"
        warnings.warn(
            f"the target {difference}, which {description.name} was trained for: its output does not change, but a "
            f"finetune accepts fewer drafts than the original target. Measured for the original: {accepted}",
            stacklevel=2,
        )
    if isinstance(results, Headline):
        _logger.warning("%s: %s", description.name, results.speed)
    else:
        _logger.warning("%s %s: benchmark measures its speed", description.name, results)
    return model


def open_drafter(
    repository: Repository,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: int,
    dtype: torch.dtype,
    device: torch.device,
    shared: Callable[[], tuple[torch.Tensor, torch.Tensor]],
    follow_clock: bool = True,
) -> tuple[PreTrainedModel, DraftingLoop, str]:
    """Load a drafter and its loop, checked against a target's tokenizer and fitted to its vocabulary.

    `shared` returns the target's embeddings and head, for a compact drafter. The result's last entry is the harmless
    difference between both tokenizers, empty if there is none. Errors are those of `load_drafter`.
    """
    drafter = repository.name
    difference = compare_with_trained(tokenizer, drafter, repository.commit, repository.description)
    repository.check_files()
    try:
        model = _load_model(repository, dtype, shared)
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(f"{drafter} cannot be loaded: {one_line(error)}: download or publish it again") from error
    trained = model.config.vocab_size
    if min(trained, vocabulary) < tokenizer.vocab_size:  # more than padding is missing
        raise InputError(
            f"{drafter} has a vocabulary of {trained} ids, the target of {vocabulary} and their tokenizer of "
            f"{tokenizer.vocab_size}: load the drafter that was trained for this target"
        )
    fit_vocabulary(model, vocabulary)
    model.to(device).eval()
    try:
        return model, build_loop(model, repository.find, trained, follow_clock, lambda: tokenizer), difference
    except ValueError as error:
        raise InputError(f"{drafter} cannot be used: {one_line(error)}") from error


def load_target_tokenizer(target_model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """Load a target's tokenizer from the folder or Hub repository of the target.

    Raises:
        InputError: If there is no tokenizer.
    """
    origin = target_model.name_or_path
    try:
        return AutoTokenizer.from_pretrained(origin)
    except (OSError, ValueError) as error:
        raise InputError(
            f"no tokenizer of the target at {origin!r} ({one_line(error)}): give it as tokenizer"
        ) from error


def _device_of(target_model: PreTrainedModel) -> torch.device:
    devices = (weight.device for weight in target_model.parameters())
    device = next((device for device in devices if device.type != "meta"), None)
    if device is None and "disk" in getattr(target_model, "hf_device_map", {}).values():  # only accelerate sets it
        raise InputError(
            "all weights of the target are on the disk, and every forward pass reads them: load at least a part of "
            "them into memory (max_memory, or another device_map), then load the drafter"
        )
    return device or torch.device("meta")


def _dtype_of(target_model: PreTrainedModel) -> torch.dtype:
    """Return the dtype in which a target computes; the dtype of quantized weights is unusable for a drafter."""
    dtypes = (weight.dtype for weight in target_model.parameters())
    return next((dtype for dtype in dtypes if dtype.is_floating_point and dtype.itemsize > 1), torch.float32)


def _load_model(repository: Repository, dtype: torch.dtype, shared: Callable) -> PreTrainedModel:
    drafter, commit, description = repository.name, repository.commit, repository.description
    if COMPACT in description.weights:
        paths = [repository.find(name) for name in description.weights]  # on the Hub all in one folder
        return read_compact(paths[0].parent, *shared(), dtype)
    # No pickle and no code of the repository is loaded.
    trusted = {"dtype": dtype, "use_safetensors": True, "trust_remote_code": False}
    if not description.adapter_of:
        return AutoModelForCausalLM.from_pretrained(drafter, revision=commit, **trusted)
    base, revision = description.adapter_of["drafter"], description.adapter_of["revision"]
    if commit is None and (Path(drafter) / base).is_dir():
        base = str(Path(drafter) / base)
    if Repository.open(base, revision).identity != revision:
        raise InputError(f"{drafter} is an adapter of an earlier {base} ({revision}): publish the adapter again")
    model = AutoModelForCausalLM.from_pretrained(base, revision=None if Path(base).is_dir() else revision, **trusted)
    # Not at the top: an engine's environment lacks the libraries of adapters.
    from drafter_trainer.drafters.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, merge_adapter

    paths = [repository.find(name) for name in (ADAPTER_WEIGHTS, ADAPTER_CONFIG)]
    if None in paths:
        raise InputError(f"{drafter} lacks {ADAPTER_WEIGHTS} or {ADAPTER_CONFIG}: publish it again")
    return merge_adapter(model, paths[0].parent)


def with_sources(drafter: PreTrainedModel, sources: Sequence[str]) -> PreTrainedModel:
    """Return a drafter that shares the weights of another and asks only some of its sources, without a memory."""
    loop = loop_of(drafter)
    return _with_loop(drafter, loop, dataclasses.replace(loop.settings, sources=list(sources)))


def with_network(drafter: PreTrainedModel, other: PreTrainedModel) -> PreTrainedModel:
    """Return another model of the same shape that drafts with the table and the settings of `drafter`."""
    loop = loop_of(drafter)
    return _with_loop(other, loop, loop.settings)


def with_stock_loop(drafter: PreTrainedModel, draft_length: int) -> PreTrainedModel:
    """Return a drafter that shares the weights of another and drafts with the loop of transformers."""
    stock = copy.copy(drafter)
    stock.__dict__.pop("generate", None)
    stock.generation_config = copy.deepcopy(drafter.generation_config)
    set_draft_length(stock.generation_config, draft_length)
    return stock


def _with_loop(drafter: PreTrainedModel, loop: DraftingLoop, settings: LoopSettings) -> PreTrainedModel:
    # A shallow copy: it shares parameters, not the network's cache.
    model = copy.copy(drafter)
    model.generation_config = copy.deepcopy(drafter.generation_config)
    network = build_network(drafter, loop.draft_ids, settings.int8) if NETWORK in settings.sources else None
    other = DraftingLoop(network, loop.table, settings, loop.device, loop.vocabulary, loop.clock, loop.load_tokenizer)
    attach_loop(model, other)
    return model
