"""Train an EAGLE layer on the target's own completions, for the benchmark to compare with.

    drafter-trainer eagle --config recipes/configs/gemma-3-270m/de-en.yaml

Reads RUN_FOLDER/distill (or the folders of --data), as finetuning does, and leaves RUN_FOLDER/eagle, which
`drafter-trainer bench --baselines eagle` measures. An interrupted training continues from its last checkpoint.
"""

from pathlib import Path

from drafter_trainer.benchmark.baselines.eagle import EagleLayer
from drafter_trainer.benchmark.baselines.trainers import EagleTrainer, train_baseline
from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.cli.launch import report_step, require_one_process


def main(argv: list[str]) -> None:
    """Run the step."""
    (named, where, data, training), given = parse_arguments("eagle", argv, __doc__)
    require_one_process("an EAGLE layer is trained")
    training.output_dir = training.output_dir or str(named.run.folder / "eagle")
    rows = [Path(folder) for folder in data.data] or [named.run.rows]
    what = ("eagle", EagleTrainer, EagleLayer, {})
    report_step(train_baseline(*what, where.resolve(), rows, training, given, where.dtype))
