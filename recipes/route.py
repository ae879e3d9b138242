"""Measure the router between drafters of several pairs against always knowing the language.

    python recipes/route.py --config recipes/configs/gemma-3-270m/common.yaml --drafters DRAFTER ...

The same as `drafter-trainer route`; --help lists the options.
"""

from drafter_trainer.cli.launch import run_step
from drafter_trainer.cli.route import main

if __name__ == "__main__":
    run_step(main)
