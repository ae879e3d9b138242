# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["drafter_trainer==0.1.0"]
#
# [[tool.uv.index]]
# name = "wheels"
# url = "/wheels"
# format = "flat"
# explicit = true
#
# [tool.uv.sources]
# drafter_trainer = { index = "wheels" }
#
# [tool.hf-jobs]
# secrets = ["HF_TOKEN"]
# volumes = ["dist:/wheels"]
# ///
"""Publish the finetuned drafter of a run, with the results of its benchmark once there are any.

    accelerate launch recipes/publish.py --config recipes/configs/gemma-3-270m/de-en.yaml --dry_run true
    accelerate launch recipes/publish.py --config recipes/configs/gemma-3-270m/de-en.yaml --tag v1
    accelerate launch recipes/publish.py --config recipes/configs/gemma-3-270m/de-en.yaml --to runs/drafter
    accelerate launch recipes/publish.py --config recipes/configs/gemma-3-270m/de-en.yaml --dataset true

To the Hub that HF_ENDPOINT and HF_TOKEN name, or to a folder with --to. On the Hub it is one commit, which is
downloaded again, compared and tried before it is tagged; a branch that holds another drafter is refused without
--overwrite true. With --dataset the run's self-distilled rows are published in place of its drafter.
"""

from accelerate import PartialState

from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.cli.launch import leave_processes, run_recipe
from drafter_trainer.hub.publish import publish_rows, publish_run


def main(argv: list[str]) -> None:
    (run, where, publishing, what), _ = parse_arguments("publish", argv, __doc__)
    main_process = PartialState().is_main_process
    leave_processes()
    if not main_process:
        return
    target = where.resolve()
    if what.dataset:
        print(publish_rows(run, target, publishing))
    else:
        print(publish_run(run, target, where.dtype, publishing))


if __name__ == "__main__":
    run_recipe(main)
