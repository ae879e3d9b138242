"""Check that a target and a drafter go together: their tokenizers by content, and what the target can do.

transformers compares vocabulary sizes alone: a drafter of equal size with another tokenizer drafts garbage, silently.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

import torch
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from drafter_trainer.checkpoints import model_class_of
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
    """Compare a drafter's tokenizer with its target's.

    Args:
        probes (`Iterable[str]`): Texts in the drafter's languages.
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
    """
    target_ids, draft_ids = target_tokenizer.get_vocab(), draft_tokenizer.get_vocab()
    differences = []
    if different := _different_tokens(target_ids, draft_ids):
        differences.append(_say_different("drafter", different, target_ids, draft_ids))
        added = target_tokenizer.get_added_vocab().keys() | draft_tokenizer.get_added_vocab().keys()
        if any(token not in added or (token in target_ids and token in draft_ids) for token in different):
            raise IncompatibleTokenizerError(f"{differences[0]}: {_ADVICE}")
    for name in _SPECIAL:
        target_id, draft_id = getattr(target_tokenizer, name), getattr(draft_tokenizer, name)
        if target_id != draft_id:
            differences.append(f"the drafter's {name} is {draft_id}, the target's {target_id}")
    _check_probes("drafter", target_tokenizer, draft_tokenizer, probes, _ADVICE)
    return "; ".join(differences)


def compare_with_trained(
    tokenizer: PreTrainedTokenizerBase, drafter: str, commit: str | None, description: DrafterDescription
) -> str:
    """Compare the tokenizer of a target with the one that a published drafter was trained with.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The target's.
        drafter (`str`): Hub id or folder of the drafter, whose own tokenizer is loaded where the target's is another.
        commit (`str`, *optional*): Of the drafter on the Hub.
        description (`DrafterDescription`): What the drafter says of itself.
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
    if target_model._is_stateful:
        raise InputError(
            f"the target is a {type(target_model).__name__}, whose state cannot be taken back when a draft is "
            "rejected: generate() takes no drafter for it"
        )
    devices = (weight.device for weight in target_model.parameters())
    device = next((device for device in devices if device.type != "meta"), None)
    if device is None and "disk" in getattr(target_model, "hf_device_map", {}).values():  # set by accelerate alone
        raise InputError(
            "the target lies wholly on the disk, where every pass reads all of it: load at least a part of it into "
            "memory (max_memory, or another device_map), then the drafter"
        )
    return device or torch.device("meta")


def check_same_vocabulary(
    target_tokenizer: PreTrainedTokenizerBase, other_tokenizer: PreTrainedTokenizerBase, probes: Iterable[str]
) -> None:
    """Compare the tokenizer of a checkpoint that a drafter starts from with the target's, which replaces it.

    Other special ids do no harm, and neither does an added token that one of the two lacks: siblings of one family
    differ in these. An id that means two things does.

    Args:
        probes (`Iterable[str]`): Texts in the drafter's languages.
    """
    advice = "start from a checkpoint with the target's tokenizer"
    target_ids, other_ids = target_tokenizer.get_vocab(), other_tokenizer.get_vocab()
    added = target_tokenizer.get_added_vocab().keys() | other_tokenizer.get_added_vocab().keys()
    taken = set(target_ids.values())
    different = [
        token
        for token in _different_tokens(target_ids, other_ids)
        if token not in added or (token in target_ids and token in other_ids) or other_ids.get(token) in taken
    ]
    if different:
        said = _say_different("checkpoint", different, target_ids, other_ids)
        raise IncompatibleTokenizerError(f"{said}: {advice}")
    _check_probes("checkpoint", target_tokenizer, other_tokenizer, probes, advice)


def _different_tokens(target_ids: Mapping[str, int], other_ids: Mapping[str, int]) -> list[str]:
    return sorted(
        token for token in target_ids.keys() | other_ids.keys() if target_ids.get(token) != other_ids.get(token)
    )


def _say_different(
    whose: str, different: Sequence[str], target_ids: Mapping[str, int], other_ids: Mapping[str, int]
) -> str:
    token = different[0]
    return (
        f"the {whose}'s tokenizer differs from the target's in {len(different)} tokens (vocabularies of "
        f"{len(other_ids)} and {len(target_ids)}); the first is {token!r} with id {other_ids.get(token)} in the "
        f"{whose}'s and {target_ids.get(token)} in the target's"
    )


def _check_probes(
    whose: str,
    target_tokenizer: PreTrainedTokenizerBase,
    other_tokenizer: PreTrainedTokenizerBase,
    probes: Iterable[str],
    advice: str,
) -> None:
    for probe in probes:
        ids, found = (each.encode(probe, add_special_tokens=False) for each in (target_tokenizer, other_tokenizer))
        if ids != found:
            raise IncompatibleTokenizerError(f"the {whose}'s tokenizer splits {probe!r} in another way: {advice}")


def check_assistable(config: PretrainedConfig, name: str) -> None:
    """Refuse a target that assisted decoding cannot help, by its configuration alone.

    Args:
        name (`str`): The target, for the message.
    """
    if config.is_encoder_decoder:
        raise InputError(f"{name} is an encoder-decoder model ({config.model_type}): name a decoder-only model")
    model_class = model_class_of(config)
    if model_class is None:
        raise InputError(f"{name} is no causal language model ({config.model_type}): name one")
    if model_class._is_stateful:
        raise InputError(
            f"{name} keeps a recurrent state ({config.model_type}), and transformers cannot assist such a model: "
            "rejected tokens cannot be taken back. Name a model whose layers are all attention"
        )


def check_unquantized(config: PretrainedConfig, name: str) -> None:
    """Refuse a checkpoint whose weights cannot be trained, by its configuration alone.

    Args:
        name (`str`): The checkpoint, for the message.
    """
    if getattr(config, "quantization_config", None):
        raise InputError(
            f"the weights of {name} are quantized, and its layers cannot be trained: give as initialization a "
            "checkpoint of it that is not quantized, with the numbers of its layers"
        )
