"""The target of a drafter, where nobody names it."""

from pathlib import Path
from typing import Any

from drafter_trainer.errors import InputError
from drafter_trainer.repository import Repository
from drafter_trainer.targets import Target, as_target, resolve_target


def target_of(drafter: str | Path, target: Any = None) -> Target:
    """Return the target that is named, or the one that a drafter names.

    Args:
        drafter (`str` or `Path`): Folder or Hub id of the drafter.
        target (`str`, `Target` or `PreTrainedModel`, *optional*): The target.
    Raises:
        InputError: If it is not named, and not to be found under the drafter's name for it.
    """
    if target is not None:
        return as_target(target)
    description = Repository.open(drafter).description
    try:
        return resolve_target(description.target, description.target_revision)
    except InputError as error:
        raise InputError(f"the target of {drafter} is not to be found, name it: {error}") from error
