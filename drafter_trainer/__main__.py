"""`python -m drafter_trainer` is the command `drafter-trainer`."""

from drafter_trainer.cli import main

main()
