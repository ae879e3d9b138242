"""Options of a command: the parameters of the function that it calls, described once, by that function's docstring."""

import inspect
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import Field, field, fields, make_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from drafter_trainer.errors import InputError, check_positive

_ARGS = re.compile(r"^Args:\n(.*?)(?=^\w|\Z)", re.DOTALL | re.MULTILINE)
_ENTRY = re.compile(r"^    (\w+(?:, \w+)*) \(.*?\): (.*?)(?=^    \w|\Z)", re.DOTALL | re.MULTILINE)


def option(default: Any, help: str, kind: Any = None, **more: Any) -> Any:
    """Declare a field with its help text; a list is copied for each instance.

    Args:
        kind (`type`, *optional*): The field's type, where `options` does not see it from the default.
        more: What else the parser is told, such as `aliases`.
    """
    given = {"default_factory": lambda: list(default)} if isinstance(default, list) else {"default": default}
    declared = field(**given, metadata={"help": help} | more)
    declared.type = kind or (list[str] if isinstance(default, list) else type(default))
    return declared


def parameters(function: Callable[..., Any], *names: str, **defaults: Any) -> dict[str, Field]:
    """Declare options that are parameters of a function, with its types, its defaults and its docstring's texts.

    Args:
        defaults: Parameters whose default is another one on the command line.
    """
    signature, kinds, told = inspect.signature(function), get_type_hints(function), {}
    for described, text in _ENTRY.findall(_ARGS.search(inspect.getdoc(function))[1]):
        told |= dict.fromkeys(described.split(", "), re.sub(r"[`\"]", "", " ".join(text.split()).rstrip(".")))
    declared = {}
    for name in (*names, *defaults):
        default = defaults.get(name, signature.parameters[name].default)
        default = list(default) if isinstance(default, tuple) else default
        declared[name] = option(default, told[name], _read_as(kinds[name]))
    return declared


def options(group: str, declared: Mapping[str, Field], may_be_zero: Collection[str] = ()) -> type["_Options"]:
    """Make the class of a group of options, whose whole numbers must be positive.

    Args:
        may_be_zero (`Collection[str]`, *optional*): Those that may be 0 or less.
    """
    entries = [(name, entry.type, entry) for name, entry in declared.items()]
    said = {"_argument_group_name": group, "_may_be_zero": {*may_be_zero}}
    return make_dataclass("Options", entries, bases=(_Options,), namespace=said)


class _Options:
    def __post_init__(self) -> None:
        for entry in fields(self):
            if entry.type in (int, int | None) and entry.name not in self._may_be_zero:
                check_positive(**{entry.name: getattr(self, entry.name)})


def arguments_of(function: Callable[..., Any], *groups: Any) -> dict[str, Any]:
    """Return the values that groups of options have for the parameters of a function."""
    values = {name: value for group in groups for name, value in vars(group).items()}
    return {name: values[name] for name in inspect.signature(function).parameters if name in values}


def split_engine_words(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line at `--`: behind it stand options of the engine itself."""
    end = [*argv, "--"].index("--")
    return [*argv[:end]], [*argv[end + 1 :]]


def _read_as(kind: Any) -> Any:
    """Return the type that a command line is read as for a parameter of some type."""
    kinds = get_args(kind) if get_origin(kind) is UnionType else (kind,)
    first, *_ = (each for each in kinds if each is not NoneType)
    if get_origin(first) is not None and issubclass(get_origin(first), Sequence):
        return list[get_args(first)[0]]
    first = str if first in (Any, Path) else first
    return first | None if NoneType in kinds else first


def read_mapping(arguments: Any, name: str) -> None:
    """Replace an option that was given as JSON by the mapping that it spells."""
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


def check_known(arguments: Any, name: str, values: Collection[str]) -> None:
    """Refuse a value, or a list with a value, that is not among those known."""
    given = getattr(arguments, name)
    if isinstance(given, str) and given not in values:
        raise InputError(f"{name} must be one of {', '.join(values)}, got {given}")
    if unknown := [value for value in given if value not in values] if isinstance(given, list) else []:
        raise InputError(f"{name} may name {', '.join(values)}, got {', '.join(unknown)}")
