"""Load a published drafter for its target."""

import copy
import dataclasses
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from drafter_trainer.drafters.compact import COMPACT, embeddings_and_head, read_compact
from drafter_trainer.drafters.compatibility import compare_with_trained, device_of, find_difference, fit_vocabulary
from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.drafters.loop.drafting import DraftingLoop
from drafter_trainer.drafters.loop.generate import attach_loop, loop_of, set_draft_length
from drafter_trainer.drafters.loop.network_kinds import build_network
from drafter_trainer.drafters.loop.networkless import MODEL_TYPE, NetworklessConfig, NetworklessDrafter
from drafter_trainer.drafters.loop.repository import build_loop
from drafter_trainer.drafters.loop.settings import LoopSettings
from drafter_trainer.drafters.loop.sources import NETWORK
from drafter_trainer.drafters.memory import CompletionMemory
from drafter_trainer.errors import InputError, one_line
from drafter_trainer.repository import Repository
from drafter_trainer.results import Headline

_logger = logging.getLogger(__name__)

# A repository without a network loads like any other where the package is: without its own copy of the code.
AutoConfig.register(MODEL_TYPE, NetworklessConfig)
AutoModelForCausalLM.register(NetworklessConfig, NetworklessDrafter)

# What transformers raises where configuration or weights are malformed, beside what it means to raise.
_UNREADABLE = (OSError, SafetensorError, ValueError, TypeError, LookupError, AttributeError, RuntimeError)


def load_drafter(
    drafter: str,
    target_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    revision: str | None = None,
    follow_clock: bool = True,
    memory: CompletionMemory | None = None,
) -> PreTrainedModel:
    """Load a drafter, checked against its target, ready for `target.generate(assistant_model=…)`.

    It keeps what it has read of the current text, so one drafter serves one call of `generate` at a time: threads need
    one each. It drafts for one prompt at a time: with a batch, transformers refuses any assistant before that one is
    asked ("only supported for batch_size = 1"), and `generate` is called for each prompt, or without a drafter.

    One line says what speed to expect and where it was measured. It is logged as a warning, since Python shows nothing
    less where nobody has set up logging; `logging.getLogger("drafter_trainer").setLevel("ERROR")` silences it.

    Args:
        drafter (`str`): Hub id or folder of a published drafter.
        target_model (`PreTrainedModel`): The target; the drafter takes its device, the dtype that it computes in, and
            the size of its vocabulary.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): The target's; loaded from where the target came from if
            left out.
        revision (`str`, *optional*): Branch, tag or commit of the drafter on the Hub.
        follow_clock (`bool`, *optional*, defaults to `True`): Whether greedy drafting learns from the clock what
            passes and steps take. `False` goes by the costs that tuning stored for this kind of device, or generic
            ones, so that the same prompt gets the same drafts each time: in half precision, where a draft's length
            decides how a pass is rounded, also the same output on the same machine.
        memory (`CompletionMemory`, *optional*): Of what the target wrote before: the drafter drafts from it too, and
            adds each completion to it. Nothing is remembered without one.
    Returns:
        `PreTrainedModel` in evaluation mode, whose `generate` is the drafting loop where the target calls it.
    Raises:
        InputError: If there is no such drafter, its files are not those that were published or cannot be read, it
            lacks a part of the target's vocabulary, or the target's tokenizer is neither given nor found.
        IncompatibleTokenizerError: If the target's tokenizer gives text other ids than the one that it was trained
            for, or the memory is of another one.
    Warns:
        UserWarning: If the target is known to be another than the one that it was trained for, such as a finetune,
            whose tokenizer may have more tokens or another end token: with the acceptance that was measured for the
            original.
    """
    device, repository = device_of(target_model), Repository.open(drafter, revision)
    commit, description = repository.commit, repository.description
    if tokenizer is None:
        tokenizer = load_target_tokenizer(target_model)
    if memory is not None:
        memory.bind(tokenizer)
    if difference := compare_with_trained(tokenizer, drafter, commit, description):
        difference = f"has another tokenizer ({difference}) than the one"
    repository.check_files()
    try:
        model = _load_weights(repository, target_model)
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(f"{drafter} cannot be loaded: {one_line(error)}: download or publish it again") from error
    trained, vocabulary = model.config.vocab_size, target_model.config.get_text_config().vocab_size
    if min(trained, vocabulary) < tokenizer.vocab_size:  # not padding alone
        raise InputError(
            f"{drafter} has a vocabulary of {trained}, the target one of {vocabulary}, their tokenizer one of "
            f"{tokenizer.vocab_size}: load the drafter that was trained for this target"
        )
    fit_vocabulary(model, vocabulary)
    model.to(device).eval()
    try:
        loop = build_loop(model, repository.find, trained, follow_clock, lambda: tokenizer)
        attach_loop(model, loop)
        loop.memory = memory
    except ValueError as error:
        raise InputError(f"{drafter} cannot be used: {one_line(error)}") from error
    difference = find_difference(target_model, description) or difference
    _say_what_to_expect(description, difference, repository.headline())
    return model


def load_target_tokenizer(target_model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """Load a target's tokenizer from where the target came from.

    Raises:
        InputError: If there is none.
    """
    place = target_model.name_or_path
    try:
        return AutoTokenizer.from_pretrained(place)
    except (OSError, ValueError) as error:
        raise InputError(
            f"no tokenizer of the target at {place!r} ({one_line(error)}): give it as tokenizer"
        ) from error


def _say_what_to_expect(description: DrafterDescription, difference: str, results: Headline | str) -> None:
    if difference:
        accepted = results.acceptance if isinstance(results, Headline) else f"nothing, it {results}"
        warnings.warn(
            f"the target {difference}, which {description.name} was trained for: its output stays its own, but a "
            f"finetune accepts fewer drafts than the original, for which was measured: {accepted}",
            stacklevel=3,
        )
    if isinstance(results, Headline):
        _logger.warning("%s: %s", description.name, results.speed)
    else:
        _logger.warning("%s %s: benchmark measures what it brings", description.name, results)


def _dtype_of(target_model: PreTrainedModel) -> torch.dtype:
    """Return the dtype that a target computes in; quantised weights are of none that a drafter can have."""
    dtypes = (weight.dtype for weight in target_model.parameters())
    return next((dtype for dtype in dtypes if dtype.is_floating_point and dtype.itemsize > 1), torch.float32)


def _load_weights(repository: Repository, target_model: PreTrainedModel) -> PreTrainedModel:
    drafter, commit, description = repository.name, repository.commit, repository.description
    dtype = _dtype_of(target_model)
    if COMPACT in description.weights:
        for name in description.weights:
            path = repository.find(name)  # on the Hub all land in one folder
        return read_compact(path.parent, *embeddings_and_head(target_model), dtype)
    # No pickle and no code of the repository's own is read, whatever else lies in it.
    trusted = {"dtype": dtype, "use_safetensors": True, "trust_remote_code": False}
    if not description.adapter_of:
        return AutoModelForCausalLM.from_pretrained(drafter, revision=commit, **trusted)
    base, revision = description.adapter_of["drafter"], description.adapter_of["revision"]
    if commit is None and (Path(drafter) / base).is_dir():
        base = str(Path(drafter) / base)
    if Repository.open(base, revision).identity != revision:
        raise InputError(f"{drafter} is an adapter of {base} as it was before ({revision}): publish the adapter again")
    model = AutoModelForCausalLM.from_pretrained(base, revision=None if Path(base).is_dir() else revision, **trusted)
    # Not at the top: an engine's environment has nothing that adapters need.
    from drafter_trainer.drafters.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, merge_adapter

    found = [repository.find(name) for name in (ADAPTER_WEIGHTS, ADAPTER_CONFIG)]
    if None in found:
        raise InputError(f"{drafter} lacks {ADAPTER_WEIGHTS} or {ADAPTER_CONFIG}: publish it again")
    return merge_adapter(model, found[0].parent)


def with_sources(drafter: PreTrainedModel, sources: Sequence[str]) -> PreTrainedModel:
    """Return a drafter that shares the weights of another and asks some of its sources alone, without a memory."""
    loop = loop_of(drafter)
    settings = dataclasses.replace(loop.settings, sources=list(sources))
    return _with_loop(drafter, loop, settings)


def with_network(drafter: PreTrainedModel, other: PreTrainedModel) -> PreTrainedModel:
    """Return another model of the same shape that drafts as `drafter` does, with the same table and settings."""
    loop = loop_of(drafter)
    return _with_loop(other, loop, loop.settings)


def with_stock_loop(drafter: PreTrainedModel, draft_length: int) -> PreTrainedModel:
    """Return a drafter that shares the weights of another and drafts with the stock loop, as without remote code."""
    stock = copy.copy(drafter)
    stock.__dict__.pop("generate", None)
    stock.generation_config = copy.deepcopy(drafter.generation_config)
    set_draft_length(stock.generation_config, draft_length)
    return stock


def _with_loop(drafter: PreTrainedModel, loop: DraftingLoop, settings: LoopSettings) -> PreTrainedModel:
    # A copy of the module alone: its parameters are shared, the network's cache is not.
    model = copy.copy(drafter)
    model.generation_config = copy.deepcopy(drafter.generation_config)
    network = None
    if NETWORK in settings.sources:
        network = build_network(drafter, loop.draft_ids, settings.int8)
    other = DraftingLoop(network, loop.table, settings, loop.device, loop.vocabulary, loop.clock, loop.load_tokenizer)
    attach_loop(model, other)
    return model
