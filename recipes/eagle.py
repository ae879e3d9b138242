"""Train an EAGLE layer on the target's own completions, for the benchmark to compare with.

    accelerate launch recipes/eagle.py --config recipes/configs/gemma-3-270m/de-en.yaml

The same as `drafter-trainer eagle`; --help lists the options.
"""

from drafter_trainer.cli.eagle import main
from drafter_trainer.cli.launch import run_step

if __name__ == "__main__":
    run_step(main)
