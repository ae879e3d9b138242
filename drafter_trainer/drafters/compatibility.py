"""Whether a drafter fits a target: tokenizer, size of the vocabulary, and the weights that it was trained for."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from drafter_trainer.drafters.compact import COMPACT
from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.drafters.loop.networkless import NetworklessDrafter
from drafter_trainer.errors import IncompatibleTokenizerError, InputError, one_line
from drafter_trainer.targets import hash_folder

_ADVICE = "train a drafter for this target, or name the target that this drafter was made for"
_SPECIAL = ("bos_token_id", "eos_token_id", "unk_token_id")


def hash_tokenizer(tokenizer: PreTrainedTokenizerBase, probes: Iterable[str]) -> str:
    """Hash a tokenizer's vocabulary, its special ids, and its ids of probe texts in the drafter's languages."""
    content = {
        "vocabulary": sorted(tokenizer.get_vocab().items()),
        "special": [getattr(tokenizer, name) for name in _SPECIAL],
        "probes": [tokenizer.encode(probe, add_special_tokens=False) for probe in probes],
    }
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def check_tokenizers(
    target_tokenizer: PreTrainedTokenizerBase, draft_tokenizer: PreTrainedTokenizerBase, probes: Iterable[str]
) -> None:
    """Raise an error if a drafter's tokenizer is not its target's."""
    if difference := harmless_difference(target_tokenizer, draft_tokenizer, probes):
        raise IncompatibleTokenizerError(f"{difference}: {_ADVICE}")


def harmless_difference(
    target_tokenizer: PreTrainedTokenizerBase,
    other_tokenizer: PreTrainedTokenizerBase,
    probes: Iterable[str],
    whose: str = "drafter",
    advice: str = _ADVICE,
) -> str:
    """Describe how another tokenizer differs from the target's without changing the ids of text.

    A finetune or a sibling may have added tokens, or other special ids. A drafter never drafts tokens that it does not
    have. The result is empty if there is no difference; `whose` and `advice` are words for messages.

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
        ids, others = (each.encode(probe, add_special_tokens=False) for each in (target_tokenizer, other_tokenizer))
        if ids != others:
            raise IncompatibleTokenizerError(f"the {whose}'s tokenizer splits {probe!r} in another way: {advice}")
    return "; ".join(differences)


def compare_with_trained(
    tokenizer: PreTrainedTokenizerBase, drafter: str, commit: str | None, description: DrafterDescription
) -> str:
    """Return the `harmless_difference` of a target's tokenizer and the one that a drafter was trained with.

    The drafter's own tokenizer is loaded if the hashes differ.

    Raises:
        IncompatibleTokenizerError: If the target's tokenizer gives text other ids, or the drafter's own tokenizer is
            not the one of its training.
        InputError: If the drafter's tokenizer cannot be read.
    """
    probes, expected = description.probes, description.tokenizer_sha256
    if hash_tokenizer(tokenizer, probes) == expected:
        return ""
    message = f"{drafter} was trained with another tokenizer than the target's"
    if COMPACT in description.weights:  # it has no tokenizer to compare
        raise IncompatibleTokenizerError(f"{message}: use it with {description.target}")
    try:
        own = AutoTokenizer.from_pretrained(drafter, revision=commit, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises nothing narrower for a malformed file
        reason = one_line(error)
        raise InputError(f"{message}, and its own cannot be read ({reason}): download or publish it again") from error
    difference = harmless_difference(tokenizer, own, probes)
    if hash_tokenizer(own, probes) != expected:
        raise IncompatibleTokenizerError(f"{message}, and contains a third tokenizer: publish it again from its run")
    return difference


def find_difference(target_model: PreTrainedModel, description: DrafterDescription) -> str | None:
    """Describe how a target differs from the one that a drafter was trained for, after the words "the target".

    A loaded model has a name, but no revision. A folder is compared by its weights if the original was a folder, a
    model of the Hub by its name. For any other target the result is `None`.
    """
    name, original = target_model.name_or_path, f"{description.target} at {description.target_revision}"
    # set on a PeftModel, and on a model into which transformers loaded an adapter
    if adapters := getattr(target_model, "peft_config", None):
        return f"has an adapter ({', '.join(adapters)}), unlike {original}"
    if Path(name).is_dir():
        if not description.target_revision.startswith("sha256:"):
            return None
        try:
            revision = hash_folder(Path(name))
        except InputError:  # no safetensors in it
            return None
        return None if revision == description.target_revision else f"in {name} has other weights than {original}"
    try:
        validate_repo_id(name)
    except HFValidationError:  # a deleted folder, or an empty name
        return None
    if description.target.startswith("wheel:") or name.casefold() == description.target.casefold():
        return None
    return f"is {name}, not {description.target}"


@torch.no_grad()
def fit_vocabulary(model: PreTrainedModel, size: int) -> None:
    """Give a drafter's embeddings and head the target's number of rows, in place.

    Padding gives models of one tokenizer different sizes, such as 151,936 and 152,064 rows (Qwen 2.5). Assisted
    decoding takes another size for another tokenizer. Added rows are the mean of the other rows, so that their logits
    are never the largest.
    """
    own = model.config.vocab_size
    if isinstance(model, NetworklessDrafter):
        model.config.vocab_size = size
    elif size != own:
        # transformers' mean_resizing samples new rows, with a covariance that takes minutes for large vocabularies.
        model.resize_token_embeddings(size, mean_resizing=False)
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight[own:] = layer.weight[:own].mean(dim=0, dtype=torch.float32).to(layer.weight.dtype)


def check_unquantized(config: PretrainedConfig, name: str) -> None:
    """Raise an error if the configuration of a checkpoint says that its weights are quantized."""
    if getattr(config, "quantization_config", None):
        raise InputError(
            f"the weights of {name} are quantized and cannot be trained: give its unquantized checkpoint as "
            "initialization, with layers"
        )
