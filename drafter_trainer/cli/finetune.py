"""Finetune a drafter on the target's completions, keep the checkpoint that the target accepts most of, publish it.

    drafter-trainer finetune --config recipes/configs/gemma-3-270m/de-en.yaml

Reads RUN_FOLDER/distill (or the folders of --data), leaves RUN_FOLDER/finetune, and ends by publishing as the step
publish does, unless --publish false. An interrupted training continues from its last checkpoint.
"""

from pathlib import Path

from accelerate import PartialState

from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.cli.launch import leave_processes, report_step
from drafter_trainer.hub.publish import check_destination, publish_run
from drafter_trainer.pipeline.finetune import finetune


def main(argv: list[str]) -> None:
    """Run the step."""
    (named, where, data, shape, training, publishing), given = parse_arguments("finetune", argv, __doc__)
    run, publishes = named.run, data.publish and PartialState().is_main_process
    if publishes:
        check_destination(publishing.to)
    target = where.resolve()
    training.output_dir = training.output_dir or str(run.finetuned)
    rows = [Path(folder) for folder in data.data]
    report_step(finetune(run, target, rows, training, shape.options(), data.max_train_samples, given))
    leave_processes()  # the others would wait for the first one's upload only to give up in the midst of a long one
    if publishes:
        print(publish_run(run, target, where.dtype, publishing.publishing()))
