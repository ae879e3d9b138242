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
"""Publish the drafter of a run, with the results of its benchmark if there are any.

    accelerate launch recipes/publish.py --config recipes/configs/gemma-3-270m/de-en.yaml

The same as `drafter-trainer publish`; --help lists the options.
"""

from drafter_trainer.cli.launch import run_step
from drafter_trainer.cli.publish import main

if __name__ == "__main__":
    run_step(main)
