"""The baselines of the literature, which come with a clone: `benchmarks/baselines`, no part of the package."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.cli.launch import require_one_process
from drafter_trainer.errors import InputError

_CLONE = Path(__file__).parents[2]


def import_baselines(module: str = "benchmarks.baselines") -> ModuleType:
    """Import the baselines from the clone that this package was installed from."""
    if not (_CLONE / "benchmarks" / "baselines").is_dir():
        raise InputError(
            "lookahead, medusa, eagle and early_exit are no part of the installed package: clone the project's "
            "repository, and run pip install --editable . in it"
        )
    if str(_CLONE) not in sys.path:
        sys.path.append(str(_CLONE))
    return importlib.import_module(module)


def run_baseline(baseline: str, argv: list[str], description: str) -> None:
    """Run the step that trains a baseline."""
    (named, where, data, training), given = parse_arguments(baseline, argv, description)
    require_one_process("a baseline is trained")
    train_baseline = import_baselines("benchmarks.baselines.trainers").train_baseline
    training.output_dir = training.output_dir or str(named.run.folder / baseline)
    rows = [Path(folder) for folder in data.data] or [named.run.rows]
    train_baseline(baseline, where.resolve(), rows, training, given, where.dtype)
