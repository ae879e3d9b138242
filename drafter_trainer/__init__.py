"""Train, publish and measure drafters that make a large language model faster in one language at a time.

Everything is imported when it is used, so that `import drafter_trainer` takes no time.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drafter_trainer.drafters.initialization import create_drafter
    from drafter_trainer.drafters.layer_search import search_layers
    from drafter_trainer.drafters.load import load_drafter
    from drafter_trainer.drafters.memory import CompletionMemory
    from drafter_trainer.hub.export.engines import export_drafter
    from drafter_trainer.hub.router import DrafterRouter
    from drafter_trainer.pipeline.adapt import adapt
    from drafter_trainer.pipeline.benchmark import benchmark
    from drafter_trainer.pipeline.distill import distill, score_text
    from drafter_trainer.pipeline.publish import publish
    from drafter_trainer.pipeline.tune import tune
    from drafter_trainer.targets import resolve_target
    from drafter_trainer.training.arguments import DrafterTrainingArguments, PretrainingArguments
    from drafter_trainer.training.trainers import DrafterTrainer, PretrainingTrainer

_MODULES = {
    "CompletionMemory": "drafters.memory",
    "DrafterRouter": "hub.router",
    "DrafterTrainer": "training.trainers",
    "DrafterTrainingArguments": "training.arguments",
    "PretrainingArguments": "training.arguments",
    "PretrainingTrainer": "training.trainers",
    "adapt": "pipeline.adapt",
    "benchmark": "pipeline.benchmark",
    "create_drafter": "drafters.initialization",
    "distill": "pipeline.distill",
    "export_drafter": "hub.export.engines",
    "load_drafter": "drafters.load",
    "publish": "pipeline.publish",
    "resolve_target": "targets",
    "score_text": "pipeline.distill",
    "search_layers": "drafters.layer_search",
    "tune": "pipeline.tune",
}

__all__ = [
    "CompletionMemory",
    "DrafterRouter",
    "DrafterTrainer",
    "DrafterTrainingArguments",
    "PretrainingArguments",
    "PretrainingTrainer",
    "adapt",
    "benchmark",
    "create_drafter",
    "distill",
    "export_drafter",
    "load_drafter",
    "publish",
    "resolve_target",
    "score_text",
    "search_layers",
    "tune",
]


class _Package(ModuleType):
    """This package, in which an exported function wins over a subpackage of the same name."""

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system binds a subpackage to its name when it is first imported.
        if not (name in _MODULES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
