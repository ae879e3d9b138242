"""Render all measured drafters as one page, on which they can be compared.

    make gallery

The same as `drafter-trainer gallery`; --help lists the options.
"""

from drafter_trainer.cli.launch import run_step
from drafter_trainer.cli.pages import gallery as main

if __name__ == "__main__":
    run_step(main)
