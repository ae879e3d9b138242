"""Check that a target and a drafter go together: their tokenizers by content, and what the target can do.

transformers compares vocabulary sizes alone: a drafter of equal size with another tokenizer drafts garbage, silently.
"""

import hashlib
import json
from collections.abc import Iterable

import torch
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from drafter_trainer.drafters.compact import COMPACT
from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.errors import IncompatibleTokenizerError, InputError, one_line

_ADVICE = "train a drafter for this target, or name the target that this drafter was made for"
_SPECIAL = ("bos_token_id", "eos_token_id", "unk_token_id")


def hash_tokenizer(tokenizer: PreTrainedTokenizerBase, probes: Iterable[str]) -> str:
    """Hash what a tokenizer does: its vocabulary, special ids, and the ids that it gives to probe texts.

    Args:
        probes (`Iterable[str]`): Texts in the drafter's languages.
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
    """Refuse a drafter whose tokenizer is not its target's."""
    if difference := harmless_difference(target_tokenizer, draft_tokenizer, probes):
        raise IncompatibleTokenizerError(f"{difference}: {_ADVICE}")


def harmless_difference(
    target_tokenizer: PreTrainedTokenizerBase,
    other_tokenizer: PreTrainedTokenizerBase,
    probes: Iterable[str],
    whose: str = "drafter",
    advice: str = _ADVICE,
) -> str:
    """Compare two tokenizers of which one may be a finetune's or a sibling's: with tokens added, or other special ids.

    Text gets the same ids from both then, and what the drafter does not know it never drafts.

    Args:
        whose, advice (`str`, *optional*): Whose the other one is, and what to do if it does not fit, for messages.
    Returns:
        `str`, the difference, empty where there is none.
    Raises:
        IncompatibleTokenizerError: If a token that was not added has another id, or none, or a probe has other ids.
    """
    target_ids, other_ids = target_tokenizer.get_vocab(), other_tokenizer.get_vocab()
    differences = []
    tokens = target_ids.keys() | other_ids.keys()
    if different := sorted(token for token in tokens if target_ids.get(token) != other_ids.get(token)):
        token = different[0]
        differences.append(
            f"the {whose}'s tokenizer differs from the target's in {len(different)} tokens (vocabularies of "
            f"{len(other_ids)} and {len(target_ids)}); the first is {token!r} with id {other_ids.get(token)} in the "
            f"{whose}'s and {target_ids.get(token)} in the target's"
        )
        added = target_tokenizer.get_added_vocab().keys() | other_tokenizer.get_added_vocab().keys()
        if any(token not in added or (token in target_ids and token in other_ids) for token in different):
            raise IncompatibleTokenizerError(f"{differences[0]}: {advice}")
    for name in _SPECIAL:
        target_id, other_id = getattr(target_tokenizer, name), getattr(other_tokenizer, name)
        if target_id != other_id:
            differences.append(f"the {whose}'s {name} is {other_id}, the target's {target_id}")
    for probe in probes:
        ids, found = (each.encode(probe, add_special_tokens=False) for each in (target_tokenizer, other_tokenizer))
        if ids != found:
            raise IncompatibleTokenizerError(f"the {whose}'s tokenizer splits {probe!r} in another way: {advice}")
    return "; ".join(differences)


def compare_with_trained(
    tokenizer: PreTrainedTokenizerBase, drafter: str, commit: str | None, description: DrafterDescription
) -> str:
    """Compare the tokenizer of a target with the one that a published drafter was trained with.

    Args:
        drafter (`str`): Hub id or folder of the drafter, whose own tokenizer is loaded where the target's is another.
    Returns:
        `str`, a difference that does no harm (see `harmless_difference`), empty where there is none.
    Raises:
        IncompatibleTokenizerError: If the target's tokenizer gives text other ids, or the drafter carries yet another.
        InputError: If the drafter's own tokenizer cannot be read.
    """
    probes, expected = description.probes, description.tokenizer_sha256
    if hash_tokenizer(tokenizer, probes) == expected:
        return ""
    said = f"{drafter} was trained with another tokenizer than the target's"
    if COMPACT in description.weights:  # it has no tokenizer that could be compared
        raise IncompatibleTokenizerError(f"{said}: it goes with {description.target} alone")
    try:
        own = AutoTokenizer.from_pretrained(drafter, revision=commit, trust_remote_code=False)
    except Exception as error:  # of a malformed file the tokenizers library raises nothing narrower
        reason = one_line(error)
        raise InputError(f"{said}, and its own is unreadable ({reason}): download or publish it again") from error
    difference = harmless_difference(tokenizer, own, probes)
    if hash_tokenizer(own, probes) != expected:
        raise IncompatibleTokenizerError(f"{said}, and carries yet another itself: publish it again from its run")
    return difference


def device_of(target_model: PreTrainedModel) -> torch.device:
    """Return the device of a target that a drafter can serve."""
    devices = (weight.device for weight in target_model.parameters())
    device = next((device for device in devices if device.type != "meta"), None)
    if device is None and "disk" in getattr(target_model, "hf_device_map", {}).values():  # set by accelerate alone
        raise InputError(
            "the target lies wholly on the disk, where every pass reads all of it: load at least a part of it into "
            "memory (max_memory, or another device_map), then the drafter"
        )
    return device or torch.device("meta")


def check_unquantized(config: PretrainedConfig, name: str) -> None:
    """Refuse a checkpoint whose weights cannot be trained, by its configuration alone."""
    if getattr(config, "quantization_config", None):
        raise InputError(
            f"the weights of {name} are quantized, and its layers cannot be trained: give as initialization a "
            "checkpoint of it that is not quantized, with the numbers of its layers"
        )
