"""A published drafter without transformers' target beside it: what an engine drafts with."""

import warnings
from collections.abc import Callable

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from drafter_trainer.drafters.compact import COMPACT, read_compact
from drafter_trainer.drafters.compatibility import compare_with_trained, fit_vocabulary
from drafter_trainer.drafters.loop.drafting import DraftingLoop
from drafter_trainer.drafters.loop.families import reason_against
from drafter_trainer.drafters.loop.networkless import MODEL_TYPE
from drafter_trainer.drafters.loop.repository import build_loop
from drafter_trainer.drafters.loop.sources import NETWORK
from drafter_trainer.errors import InputError
from drafter_trainer.repository import Repository


def open_for_engine(drafter: str, revision: str | None = None, compact: bool = True) -> Repository:
    """Open the repository of a drafter.

    Args:
        compact (`bool`, *optional*, defaults to `True`): Whether a compact one will do.
    Raises:
        InputError: If there is no such drafter, or it is an adapter, or compact where that will not do.
    """
    repository = Repository.open(drafter, revision)
    if over := repository.description.adapter_of:
        raise InputError(
            f"{drafter} is an adapter of {over['drafter']}, and engines load whole drafters: "
            "publish it without adapter_of"
        )
    if COMPACT in repository.description.weights and not compact:
        raise InputError(
            f"{drafter} is compact: its embeddings are the target's. Write its stock repository with "
            "export, and serve that"
        )
    return repository


def open_drafter(
    drafter: str,
    revision: str | None,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: int,
    dtype: torch.dtype,
    device: torch.device,
    shared: Callable[[], tuple[torch.Tensor, torch.Tensor]],
) -> tuple[PreTrainedModel | None, DraftingLoop]:
    """Load a published drafter for an engine.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The target's.
        vocabulary (`int`): Size of the target's vocabulary, padding included.
        dtype, device: Of the network.
        shared (callable): Returns the target's embeddings and head, which a compact drafter shares.
    Returns:
        `tuple` of the network, `None` where there is none or it is not asked, and of the loop that has the drafter's
        table, draft vocabulary and settings.
    Raises:
        InputError: If there is no such drafter, or its files are not those that were published.
        IncompatibleTokenizerError: If the target's tokenizer gives text other ids than the one of training.
    Warns:
        UserWarning: If the target's tokenizer is a finetune's, with tokens added; or if the network is of a family
            that is not run in batches, and stays out.
    """
    repository = open_for_engine(drafter, revision)
    commit, description = repository.commit, repository.description
    if difference := compare_with_trained(tokenizer, drafter, commit, description):
        warnings.warn(f"the target's tokenizer is another one than {drafter}'s: {difference}", stacklevel=2)
    repository.check_files()
    if COMPACT in description.weights:
        model = read_compact(repository.find(COMPACT).parent, *shared(), dtype)
    else:
        model = AutoModelForCausalLM.from_pretrained(drafter, revision=commit, dtype=dtype, use_safetensors=True)
    trained = model.config.vocab_size
    fit_vocabulary(model, vocabulary)
    model.to(device).eval()
    try:
        loop = build_loop(model, repository.find, trained)
    except ValueError as error:
        raise InputError(f"{drafter} cannot be used: {' '.join(str(error).split())}") from error
    runs = NETWORK in loop.settings.sources and model.config.model_type != MODEL_TYPE
    if runs and (reason := reason_against(model)):
        warnings.warn(f"{drafter} drafts without its network: {reason}", stacklevel=2)
        runs = False
    return model if runs else None, loop
