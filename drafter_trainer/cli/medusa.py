"""Train Medusa heads on the target's own completions, for the benchmark to compare with.

    drafter-trainer medusa --config recipes/configs/gemma-3-270m/de-en.yaml

Reads RUN_FOLDER/distill (or the folders of --data), as finetuning does, and leaves RUN_FOLDER/medusa, which
`drafter-trainer bench --baselines medusa` measures. An interrupted training continues from its last checkpoint.
"""

from pathlib import Path

from drafter_trainer.benchmark.baselines.trainers import train_baseline
from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.cli.launch import report_step, require_one_process


def main(argv: list[str]) -> None:
    """Run the step."""
    run_baseline("medusa", argv, __doc__)


def run_baseline(baseline: str, argv: list[str], description: str) -> None:
    """Run the step that trains a baseline."""
    (named, where, data, training), given = parse_arguments(baseline, argv, description)
    require_one_process("a baseline is trained")
    training.output_dir = training.output_dir or str(named.run.folder / baseline)
    rows = [Path(folder) for folder in data.data] or [named.run.rows]
    report_step(train_baseline(baseline, where.resolve(), rows, training, given, where.dtype))
