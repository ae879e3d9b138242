"""Render the cards of a folder again: README.md and acceptance.png of each drafter.

    make cards

The same as `drafter-trainer cards`; --help lists the options.
"""

from drafter_trainer.cli.launch import run_step
from drafter_trainer.cli.pages import cards as main

if __name__ == "__main__":
    run_step(main)
