"""Tell a target from the one that a drafter was made for, as far as it can be told."""

from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedModel

from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.errors import InputError
from drafter_trainer.targets import hash_folder


def find_difference(target_model: PreTrainedModel, description: DrafterDescription) -> str | None:
    """Say what tells a target from the one that answered when the drafter was trained.

    A model knows where it came from and not at which revision, so a folder is told by its weights, if those of another
    folder answered, and a model of the Hub by its name. What cannot be told passes: a model made in process, a folder
    beside a drafter that was trained with a wheel or a model of the Hub.

    Returns:
        `str`, the rest of a sentence that begins with "the target", or `None`.
    """
    place, original = target_model.name_or_path, f"{description.target} at {description.target_revision}"
    if adapters := getattr(
        target_model, "peft_config", None
    ):  # of a PeftModel, and of a model with one loaded into it
        return f"carries an adapter ({', '.join(adapters)}), unlike {original}"
    if Path(place).is_dir():
        if not description.target_revision.startswith("sha256:"):
            return None
        try:
            revision = hash_folder(Path(place))
        except InputError:  # its weights are of another kind than safetensors
            return None
        return None if revision == description.target_revision else f"in {place} has other weights than {original}"
    try:
        validate_repo_id(place)
    except HFValidationError:  # a folder that is gone, or no name at all
        return None
    if description.target.startswith("wheel:"):  # a name that says nothing of the Hub
        return None
    return None if place.casefold() == description.target.casefold() else f"is {place}, not {description.target}"
