"""Train Medusa heads on the target's own completions, for the benchmark to compare with.

    accelerate launch recipes/medusa.py --config recipes/configs/gemma-3-270m/de-en.yaml

The same as `drafter-trainer medusa`; --help lists the options.
"""

from drafter_trainer.cli.launch import run_step
from drafter_trainer.cli.medusa import main

if __name__ == "__main__":
    run_step(main)
