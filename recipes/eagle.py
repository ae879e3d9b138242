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
"""Train an EAGLE layer on the target's own completions, for the benchmark to compare with.

    accelerate launch recipes/eagle.py --config recipes/configs/gemma-3-270m/de-en.yaml

The same as `drafter-trainer eagle`; --help lists the options.
"""

from drafter_trainer.cli.eagle import main
from drafter_trainer.cli.launch import run_step

if __name__ == "__main__":
    run_step(main)
