"""Load a published drafter for its target."""

from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from drafter_trainer.drafters.compatibility import check_tokenizers, hash_tokenizer
from drafter_trainer.drafters.description import FILE_NAME, DrafterDescription
from drafter_trainer.errors import IncompatibleTokenizerError, InputError
from drafter_trainer.languages import get_pair
from drafter_trainer.targets import hash_folder


def load_drafter(
    drafter: str,
    target_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    revision: str | None = None,
) -> PreTrainedModel:
    """Load a drafter, checked against its target, ready for `target.generate(assistant_model=…)`.

    Args:
        drafter (`str`): Hub id or folder of a published drafter.
        target_model (`PreTrainedModel`): The target; the drafter takes its dtype and device.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): The target's; loaded from where the target came from if
            left out.
        revision (`str`, *optional*): Branch, tag or commit of the drafter on the Hub.
    Returns:
        `PreTrainedModel` in evaluation mode, whose `generation_config` carries its draft length.
    Raises:
        InputError: If there is no such drafter, its weights cannot be read, its vocabulary has another size than the
            target's, or the target's tokenizer is neither given nor found.
        IncompatibleTokenizerError: If the target's tokenizer is not the one that it was trained for.
    """
    description = describe_drafter(drafter, revision)
    if tokenizer is None:
        place = target_model.name_or_path
        try:
            tokenizer = AutoTokenizer.from_pretrained(place)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"no tokenizer of the target at {place!r} ({reason}): give it as tokenizer") from error
    probes = get_pair(description.pair).probes
    if hash_tokenizer(tokenizer, probes) != description.tokenizer_sha256:
        check_tokenizers(tokenizer, AutoTokenizer.from_pretrained(drafter, revision=revision), probes)
        raise IncompatibleTokenizerError(
            f"{drafter} was trained with another tokenizer than the one of {target_model.name_or_path}, and carries "
            f"yet another itself: publish it again from its run"
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(drafter, revision=revision, dtype=target_model.dtype)
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{drafter} cannot be loaded: {reason}: download or publish it again") from error
    vocabulary = target_model.config.get_text_config().vocab_size
    if model.config.vocab_size != vocabulary:
        raise InputError(
            f"{drafter} has a vocabulary of {model.config.vocab_size}, the target one of "
            f"{vocabulary}: load the drafter that was trained for this target"
        )
    return model.to(target_model.device).eval()


def describe_drafter(drafter: str, revision: str | None = None) -> DrafterDescription:
    """Read what a published drafter says of itself.

    Args:
        drafter (`str`): Hub id or folder.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
    Raises:
        InputError: If there is no such drafter.
    """
    if Path(drafter).is_dir():
        return DrafterDescription.read(Path(drafter))
    try:
        path = huggingface_hub.hf_hub_download(drafter, FILE_NAME, revision=revision)
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError) as error:
        raise InputError(
            f"{drafter} is neither a folder nor a published drafter on the Hub: {' '.join(str(error).split())}"
        ) from error
    return DrafterDescription.from_json(Path(path).read_text(encoding="utf-8"), f"{drafter}/{FILE_NAME}")


def identify_drafter(drafter: str) -> str:
    """Return the commit of a drafter on the Hub, or a hash of its folder's weights."""
    if Path(drafter).is_dir():
        return hash_folder(Path(drafter))
    return huggingface_hub.HfApi().model_info(drafter).sha
