"""Tell a target from the one that a drafter was made for, as far as it can be told."""

import re
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedModel

from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.errors import InputError
from drafter_trainer.targets import hash_folder


def find_difference(target_model: PreTrainedModel, description: DrafterDescription) -> str | None:
    """Say what tells a target from the one that answered when the drafter was trained.

    A model knows where it came from and not at which revision, so a folder is told by its weights, if those of another
    folder answered, and a model of the Hub by its name and by what lies in the cache. What cannot be told passes: a
    model made in process, a folder beside a drafter that was trained with a wheel or a model of the Hub.

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
    if place.casefold() != description.target.casefold():
        return f"is {place}, not {description.target}"
    if re.fullmatch("[0-9a-f]{40}", description.target_revision) and _is_elsewhere(place, description.target_revision):
        return f"has other weights than {original}"
    return None


def _is_elsewhere(repo: str, commit: str) -> bool:
    """Tell whether weights in the cache are not those of a commit; asks the Hub only where the commit is another."""
    config = "config.json"
    if isinstance(huggingface_hub.try_to_load_from_cache(repo, config, revision=commit), str):
        return False
    cached = huggingface_hub.try_to_load_from_cache(repo, config)
    if not isinstance(cached, str):
        return False
    # The cache names large files by their SHA-256.
    weights = {path.name: path.resolve().name for path in Path(cached).parent.glob("*.safetensors")}
    try:
        files = huggingface_hub.HfApi().get_paths_info(repo, list(weights), revision=commit)
    except (OSError, HTTPError):
        return False
    return bool(weights) and {file.path: file.lfs.sha256 for file in files if file.lfs} != weights
