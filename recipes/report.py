"""Render the report of a results file again: report.md, report.html and plots/.

    make report RESULTS=runs/gemma-3-270m-drafter-de-en/results.json

The same as `drafter-trainer report`; --help lists the options.
"""

from drafter_trainer.cli.launch import run_step
from drafter_trainer.cli.pages import report as main

if __name__ == "__main__":
    run_step(main)
