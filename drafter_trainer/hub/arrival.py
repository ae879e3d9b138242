"""Check what has arrived on the Hub: download it as a user would, compare it, and let it draft."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import huggingface_hub
import torch
from huggingface_hub.errors import HTTPError

from drafter_trainer.drafters.description import hash_file
from drafter_trainer.drafters.load import load_drafter
from drafter_trainer.errors import InputError, one_line
from drafter_trainer.hub.push import Destination
from drafter_trainer.repository import Repository
from drafter_trainer.targets import Target


def fetch(destination: Destination, commit: str, files: Mapping[str, Path], cache: Path) -> Path:
    """Download a commit into an empty cache and compare it with what was sent."""
    try:
        folder = huggingface_hub.snapshot_download(
            destination.repo_id,
            repo_type=destination.repo_type,
            revision=commit,
            cache_dir=cache,
            allow_patterns=list(files),
        )
    except (OSError, HTTPError) as error:
        reason = one_line(error)
        raise InputError(
            f"{destination} was sent, and could not be downloaded again ({reason}): run the same command again"
        ) from error
    for path, source in files.items():
        arrived = Path(folder) / path
        if not arrived.is_file() or hash_file(arrived) != hash_file(source):
            raise InputError(f"{path} came back from {destination} in another state than it was sent: publish again")
    return Path(folder)


def check_generation(folder: Path, target: Target, target_dtype: str) -> None:
    """Load a drafter that came back from the Hub, and let it draft for one prompt.

    Args:
        target (`Target`): Where its weights cannot be loaded here, a warning says so, and nothing is generated.
    """
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    try:
        target_model = target.load_model(target_dtype, device)
    except (OSError, MemoryError, ImportError, RuntimeError, ValueError) as error:  # the last three: of quantizers
        reason = one_line(error)
        warnings.warn(f"the target cannot be loaded here ({reason}): the drafter is published untried", stacklevel=3)
        return
    chat = target.load_chat()
    drafter = load_drafter(str(folder), target_model, chat.tokenizer)
    ids = torch.tensor([chat.encode_prompt(Repository.open(folder).description.example)], device=device)
    output = target_model.generate(
        ids, attention_mask=torch.ones_like(ids), assistant_model=drafter, max_new_tokens=16, do_sample=False
    )
    if output.shape[1] == ids.shape[1]:
        raise InputError(f"the target says nothing with the drafter that came back to {folder}: do not use it")
