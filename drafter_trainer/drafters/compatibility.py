"""Check that a target and a drafter go together: their tokenizers by content, and what the target can do.

transformers compares vocabulary sizes alone: a drafter of equal size with another tokenizer drafts garbage, silently.
"""

import hashlib
import json
from collections.abc import Iterable

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from drafter_trainer.errors import IncompatibleTokenizerError, InputError

_ADVICE = "train a drafter for this target, or name the target that this drafter was made for"
_SPECIAL = ("bos_token_id", "eos_token_id", "unk_token_id")


def hash_tokenizer(tokenizer: PreTrainedTokenizerBase, probes: Iterable[str]) -> str:
    """Hash what a tokenizer does: its vocabulary, special ids, and the ids that it gives to probe texts.

    Args:
        probes (`Iterable[str]`): Texts in the drafter's languages.
    Returns:
        `str`, a SHA-256 in hexadecimal.
    """
    content = {
        "vocabulary": sorted(tokenizer.get_vocab().items()),
        "special": [getattr(tokenizer, name) for name in _SPECIAL],
        "probes": [tokenizer.encode(probe, add_special_tokens=False) for probe in probes],
    }
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def check_tokenizers(
    target_tokenizer: PreTrainedTokenizerBase, draft_tokenizer: PreTrainedTokenizerBase, probes: Iterable[str]
) -> None:
    """Compare a drafter's tokenizer with its target's.

    Args:
        probes (`Iterable[str]`): Texts in the drafter's languages.
    Raises:
        IncompatibleTokenizerError: If vocabulary, special ids or the ids of a probe differ; the message shows the
            first difference.
    """
    if difference := harmless_difference(target_tokenizer, draft_tokenizer, probes):
        raise IncompatibleTokenizerError(f"{difference}: {_ADVICE}")


def harmless_difference(
    target_tokenizer: PreTrainedTokenizerBase, draft_tokenizer: PreTrainedTokenizerBase, probes: Iterable[str]
) -> str:
    """Compare two tokenizers of which one may be a finetune's: with tokens added, or other special tokens.

    Text gets the same ids from both then, and what the drafter does not know it never drafts.

    Args:
        probes (`Iterable[str]`): Texts in the drafter's languages.
    Returns:
        `str`, the difference, empty where there is none.
    Raises:
        IncompatibleTokenizerError: If text gets other ids; the message shows the first difference.
    """
    target_ids, draft_ids = target_tokenizer.get_vocab(), draft_tokenizer.get_vocab()
    added = target_tokenizer.get_added_vocab().keys() | draft_tokenizer.get_added_vocab().keys()
    differences = []
    different = sorted(
        token for token in target_ids.keys() | draft_ids.keys() if target_ids.get(token) != draft_ids.get(token)
    )
    if different:
        token = different[0]
        differences.append(
            f"the drafter's tokenizer differs from the target's in {len(different)} tokens (vocabularies of "
            f"{len(draft_ids)} and {len(target_ids)}); the first is {token!r} with id {draft_ids.get(token)} in the "
            f"drafter's and {target_ids.get(token)} in the target's"
        )
        if any(token not in added or (token in target_ids and token in draft_ids) for token in different):
            raise IncompatibleTokenizerError(f"{differences[0]}: {_ADVICE}")
    for name in _SPECIAL:
        target_id, draft_id = getattr(target_tokenizer, name), getattr(draft_tokenizer, name)
        if target_id != draft_id:
            differences.append(f"the drafter's {name} is {draft_id}, the target's {target_id}")
    for probe in probes:
        if target_tokenizer.encode(probe, add_special_tokens=False) != draft_tokenizer.encode(
            probe, add_special_tokens=False
        ):
            raise IncompatibleTokenizerError(f"the drafter's tokenizer splits {probe!r} in another way: {_ADVICE}")
    return "; ".join(differences)


def device_of(target_model: PreTrainedModel) -> torch.device:
    """Return the device of a target that a drafter can serve.

    Raises:
        InputError: If its generation refuses assistants, or all of its weights lie on the disk.
    """
    if target_model._is_stateful:
        raise InputError(
            f"the target is a {type(target_model).__name__}, whose state cannot be taken back when a draft is "
            "rejected: generate() takes no drafter for it"
        )
    devices = (weight.device for weight in target_model.parameters())
    device = next((device for device in devices if device.type != "meta"), None)
    if device is None:
        raise InputError(
            "the target lies wholly on the disk, where every pass reads all of it: load at least a part of it into "
            "memory (max_memory, or another device_map), then the drafter"
        )
    return device
