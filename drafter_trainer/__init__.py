"""Train, publish and measure drafters that make a large language model faster in one language at a time.

Exported names are imported on first use, so that `import drafter_trainer` is fast.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drafter_trainer.drafters.initialization import create_drafter as create_drafter
    from drafter_trainer.drafters.layer_search import search_layers as search_layers
    from drafter_trainer.drafters.load import load_drafter as load_drafter
    from drafter_trainer.drafters.memory import CompletionMemory as CompletionMemory
    from drafter_trainer.hub.export.engines import export_drafter as export_drafter
    from drafter_trainer.hub.router import DrafterRouter as DrafterRouter
    from drafter_trainer.pipeline.adapt import adapt as adapt
    from drafter_trainer.pipeline.benchmark import benchmark as benchmark
    from drafter_trainer.pipeline.distill import distill as distill
    from drafter_trainer.pipeline.distill import score_text as score_text
    from drafter_trainer.pipeline.publish import publish as publish
    from drafter_trainer.pipeline.tune import tune as tune
    from drafter_trainer.targets import resolve_target as resolve_target
    from drafter_trainer.training.arguments import DrafterTrainingArguments as DrafterTrainingArguments
    from drafter_trainer.training.arguments import PretrainingArguments as PretrainingArguments
    from drafter_trainer.training.trainers import DrafterTrainer as DrafterTrainer
    from drafter_trainer.training.trainers import PretrainingTrainer as PretrainingTrainer

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

__all__ = list(_MODULES)


class _Package(ModuleType):
    """This package; an exported function hides a subpackage of the same name."""

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
