"""Make the fastest drafter for a language: try every strategy, measure them all, publish the best.

    make drafter LANG=oci TEXT=file:occitan.txt

The same as `drafter-trainer language`; --help lists the options.
"""

from drafter_trainer.cli.language import main
from drafter_trainer.cli.launch import run_step

if __name__ == "__main__":
    run_step(main)
