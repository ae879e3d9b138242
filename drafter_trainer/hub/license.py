"""The license of what is trained on a target's answers: the target's decides it."""

from pathlib import Path

import huggingface_hub
import yaml
from huggingface_hub.errors import EntryNotFoundError

from drafter_trainer.errors import InputError, one_line
from drafter_trainer.targets import Target


def target_license(target: Target) -> str | None:
    """Read the license identifier from a target's own card, on the Hub or in its folder."""
    if target.hub_revision is None:
        card = Path(target.path) / "README.md"
        if not card.is_file():
            return None
    else:
        try:
            card = Path(huggingface_hub.hf_hub_download(target.path, "README.md", revision=target.hub_revision))
        except EntryNotFoundError:
            return None
    try:
        metadata = huggingface_hub.metadata_load(card) or {}
    except (ValueError, yaml.YAMLError) as error:
        reason = one_line(error)
        raise InputError(f"the license of {target.name} cannot be read from {card} ({reason}): name it") from error
    license = metadata.get("license")
    # A list of several says nothing that one identifier could.
    return license if isinstance(license, str) else None
