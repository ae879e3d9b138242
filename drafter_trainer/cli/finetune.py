"""Finetune a drafter on the target's completions, and keep the checkpoint that the target accepts most of.

    drafter-trainer finetune --config recipes/configs/gemma-3-270m/de-en.yaml

Reads RUN_FOLDER/distill (or the folders of --data), leaves RUN_FOLDER/finetune, and RUN_FOLDER/drafter, which loads as
it stands. An interrupted training continues from its last checkpoint.
"""

from pathlib import Path

from accelerate import PartialState

from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.cli.launch import leave_processes
from drafter_trainer.hub.publish import into_run, publish_run
from drafter_trainer.pipeline.finetune import finetune


def main(argv: list[str]) -> None:
    """Run the step."""
    (named, where, data, shape, training), given = parse_arguments("finetune", argv, __doc__)
    run, main_process = named.run, PartialState().is_main_process
    how = into_run(run)
    target = where.resolve()
    training.output_dir = training.output_dir or str(run.finetuned)
    rows = [Path(folder) for folder in data.data]
    finetune(run, target, rows, training, shape.options(), given)
    leave_processes()
    if main_process and Path(training.output_dir) == run.finetuned:
        print(publish_run(run, target, where.dtype, how))
