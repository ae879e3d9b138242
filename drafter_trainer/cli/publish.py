"""Publish the drafter of a run, with the results of its benchmark if there are any.

    drafter-trainer publish --config recipes/configs/gemma-3-270m/de-en.yaml --dry_run true
    drafter-trainer publish --config recipes/configs/gemma-3-270m/de-en.yaml --tag v1
    drafter-trainer publish --config recipes/configs/gemma-3-270m/de-en.yaml --to runs/drafter
    drafter-trainer publish --config recipes/configs/gemma-3-270m/de-en.yaml --format rows

Publishes RUN_FOLDER/drafter to the Hub of HF_ENDPOINT and HF_TOKEN, or to a folder with --to. On the Hub, the drafter
is one commit, which is compared, downloaded and tried before it is tagged. Another drafter on the branch is replaced
only with --overwrite true. With --format rows, the run's self-distilled rows are published instead of its drafter.
"""

from accelerate import PartialState

from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.cli.launch import leave_processes
from drafter_trainer.cli.publishing_arguments import ROWS
from drafter_trainer.drafters.description import FILE_NAME
from drafter_trainer.errors import InputError
from drafter_trainer.pipeline.publish import publish, publish_rows


def main(argv: list[str]) -> None:
    """Run the step."""
    (named, where, publishing), _ = parse_arguments("publish", argv, __doc__)
    main_process = PartialState().is_main_process
    leave_processes()
    if not main_process:
        return
    run, target = named.run, where.resolve()
    if publishing.format == ROWS:
        print(publish_rows(run.rows, target, publishing.destination(), f"{run.name}-rows", publishing.license))
        return
    if not (run.published / FILE_NAME).is_file():
        raise InputError(f"there is no drafter in {run.published}: finetune first, or tune without a network")
    given = publishing.spelled_out()
    print(publish(run.published, target, results=run.folder, dtype=where.dtype, **given))
