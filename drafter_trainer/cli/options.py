"""Options of a step: dataclass fields, most of them with help texts from the docstring of the step's function."""

import inspect
import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import MISSING, field, fields
from typing import Any

from drafter_trainer.errors import InputError, check_positive

_ARGS = re.compile(r"^Args:\n(.*?)(?=^\w|\Z)", re.DOTALL | re.MULTILINE)
_ENTRY = re.compile(r"^    (\w+(?:, \w+)*) \(.*?\): (.*?)(?=^    \w|\Z)", re.DOTALL | re.MULTILINE)


def option(default: Any, help: str, **metadata: Any) -> Any:
    """Declare an option as a dataclass field; the parser reads `metadata`, such as `aliases`."""
    given = {"default_factory": lambda: list(default)} if isinstance(default, list) else {"default": default}
    return field(**given, metadata={"help": help} | metadata)


def parameter(function: Callable[..., Any], name: str, default: Any = MISSING) -> Any:
    """Declare an option that is a parameter of a function, with its default and its description in the docstring."""
    if default is MISSING:
        default = inspect.signature(function).parameters[name].default
    entries = _ENTRY.findall(_ARGS.search(inspect.getdoc(function))[1])
    text = next(text for names, text in entries if name in names.split(", "))
    help = re.sub(r"[`\"]", "", " ".join(text.split()).rstrip("."))
    return option(list(default) if isinstance(default, tuple) else default, help)


class Options:
    """Base class of the groups of options: whole numbers must be positive, except those in `may_be_zero`."""

    def __init_subclass__(cls, group: str = "", may_be_zero: Collection[str] = ()) -> None:
        cls._may_be_zero = frozenset(may_be_zero)
        if group:
            cls._argument_group_name = group  # read by the parser: the heading in `--help`

    def __post_init__(self) -> None:
        for entry in fields(self):
            if entry.type in (int, int | None) and entry.name not in self._may_be_zero:
                check_positive(**{entry.name: getattr(self, entry.name)})


def arguments_of(function: Callable[..., Any], *groups: Any) -> dict[str, Any]:
    """Return the values whose names are parameters of a function, from groups of options or mappings."""
    mappings = [group if isinstance(group, dict) else vars(group) for group in groups]
    values = {name: value for mapping in mappings for name, value in mapping.items()}
    return {name: values[name] for name in inspect.signature(function).parameters if name in values}


def split_engine_options(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line at `--` into the step's options and the engine's options."""
    end = [*argv, "--"].index("--")
    return [*argv[:end]], [*argv[end + 1 :]]


def read_mapping(arguments: Any, name: str) -> None:
    """Replace the JSON text of an option by the mapping in it."""
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


def check_limits(name: str, limits: Sequence[int]) -> None:
    """Raise an error unless there are at most two limits of 1 or more."""
    if len(limits) > 2 or min(limits, default=1) < 1:
        raise InputError(f"{name} must be one or two numbers of at least 1, got {limits}")
