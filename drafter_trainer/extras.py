"""Libraries of optional features, which are imported when they are used."""

import importlib
import importlib.util
from types import ModuleType

from drafter_trainer.errors import InputError


def require(module: str, extra: str) -> ModuleType:
    """Import a library that an extra of this package installs."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise InputError(f'{name} is not installed: pip install "drafter_trainer[{extra}]" ({error})') from error


def is_installed(module: str) -> bool:
    """Return whether a library of an optional feature is installed."""
    return importlib.util.find_spec(module) is not None
