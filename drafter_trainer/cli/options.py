"""Options of a command: fields of a dataclass with a help text, and checks of their values."""

import json
from collections.abc import Sequence
from dataclasses import field
from typing import Any

from drafter_trainer.errors import InputError


def option(default: Any, help: str) -> Any:
    """Declare a field with its help text; a list is copied for each instance."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


def read_mapping(arguments: Any, name: str) -> None:
    """Replace an option that was given as JSON by the mapping that it spells.

    Raises:
        InputError: If it is no JSON object.
    """
    given = getattr(arguments, name)
    if not isinstance(given, str):
        return
    try:
        value = json.loads(given)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} must be a JSON object, got {given!r:.80}: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{name} must be a JSON object, got {given!r:.80}")
    setattr(arguments, name, value)


def check_positive(arguments: Any, *names: str) -> None:
    """Refuse numbers below 1; `None` is no number.

    Raises:
        InputError: That names the field.
    """
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")


def check_one_of(arguments: Any, name: str, values: Sequence[str]) -> None:
    """Refuse a value that is not among those known.

    Raises:
        InputError: That names the field.
    """
    if getattr(arguments, name) not in values:
        raise InputError(f"{name} must be one of {', '.join(values)}, got {getattr(arguments, name)}")


def check_known(arguments: Any, name: str, values: Sequence[str]) -> None:
    """Refuse a list with a value that is not among those known.

    Raises:
        InputError: That names the field.
    """
    if unknown := [value for value in getattr(arguments, name) if value not in values]:
        raise InputError(f"{name} may name {', '.join(values)}, got {', '.join(unknown)}")
