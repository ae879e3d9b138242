"""Check by content that two tokenizers are one and the same.

transformers compares vocabulary sizes alone: a drafter of equal size with another tokenizer drafts garbage, silently.
"""

import hashlib
import json
from collections.abc import Iterable

from transformers import PreTrainedTokenizerBase

from drafter_trainer.errors import IncompatibleTokenizerError

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
    advice = "train a drafter for this target, or name the target that this drafter was made for"
    target_ids, draft_ids = target_tokenizer.get_vocab(), draft_tokenizer.get_vocab()
    if target_ids != draft_ids:
        different = sorted(
            token for token in target_ids.keys() | draft_ids.keys() if target_ids.get(token) != draft_ids.get(token)
        )
        token = different[0]
        raise IncompatibleTokenizerError(
            f"the drafter's tokenizer differs from the target's in {len(different)} tokens (vocabularies of "
            f"{len(draft_ids)} and {len(target_ids)}); the first is {token!r} with id {draft_ids.get(token)} in the "
            f"drafter's and {target_ids.get(token)} in the target's: {advice}"
        )
    for name in _SPECIAL:
        target_id, draft_id = getattr(target_tokenizer, name), getattr(draft_tokenizer, name)
        if target_id != draft_id:
            raise IncompatibleTokenizerError(f"the drafter's {name} is {draft_id}, the target's {target_id}: {advice}")
    for probe in probes:
        if target_tokenizer.encode(probe, add_special_tokens=False) != draft_tokenizer.encode(
            probe, add_special_tokens=False
        ):
            raise IncompatibleTokenizerError(f"the drafter's tokenizer splits {probe!r} in another way: {advice}")
