"""Libraries of optional features: imported when they are used, and named by their extra where they are missing."""

import importlib
import importlib.util
from types import ModuleType

from drafter_trainer.errors import InputError


def require(module: str, extra: str) -> ModuleType:
    """Import a library that an extra of this package brings."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise InputError(f'{name} is not installed: pip install "drafter_trainer[{extra}]" ({error})') from error


def is_installed(module: str) -> bool:
    """Tell whether a library of an optional feature is there, for what is left out without it."""
    return importlib.util.find_spec(module) is not None
