"""Finetune a drafter on the target's completions, and keep the checkpoint with the highest acceptance.

    drafter-trainer finetune --config recipes/configs/gemma-3-270m/de-en.yaml

Reads RUN_FOLDER/distill (or the folders of --data). Writes RUN_FOLDER/finetune, and a copy for `load_drafter`,
RUN_FOLDER/drafter. An interrupted training continues from its last checkpoint.
"""

from pathlib import Path

from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.pipeline.finetune import finetune


def main(argv: list[str]) -> None:
    """Run the step."""
    (named, where, data, shape, training), given = parse_arguments("finetune", argv, __doc__)
    run, rows = named.run, [Path(folder) for folder in data.data]
    training.output_dir = training.output_dir or str(run.finetuned)
    finetune(run, where.resolve(), rows, training, shape.options(), given)
