"""Compare two results files: methods that became faster or slower, and differences within noise.

    make compare A=runs/one/results.json B=runs/other/results.json

The same as `drafter-trainer compare`; --help lists the options.
"""

from drafter_trainer.cli.launch import run_step
from drafter_trainer.cli.pages import compare as main

if __name__ == "__main__":
    run_step(main)
