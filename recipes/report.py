"""Render the report of a results file anew: report.md, report.html and plots/ beside it.

    make report RESULTS=runs/gemma-3-270m-drafter-de-en/results.json

Nothing is measured; the files are what bench.py left, or would leave today.
"""

import argparse
from pathlib import Path

from drafter_trainer.benchmark.page import write_report
from drafter_trainer.cli.launch import run_recipe
from drafter_trainer.results import read_results


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="recipes/report.py", description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path, help="A results.json")
    parser.add_argument("--out", type=Path, help="Folder of the report (default: that of the results)")
    options = parser.parse_args(argv)
    folder = options.out or options.results.parent
    write_report(read_results(options.results), folder)
    print(f"{folder / 'report.html'}, {folder / 'report.md'} and {folder / 'plots'}")


if __name__ == "__main__":
    run_recipe(main)
