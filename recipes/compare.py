"""Hold two results files against each other: which methods became faster or slower, and what is noise.

    make compare A=runs/one/results.json B=runs/other/results.json

Prints, for each method that stands in both, the speedup in A and in B over the questions that both asked, their
ratio with a paired bootstrap interval, and a verdict. Other devices, versions, questions or settings are said first.
"""

import argparse
from pathlib import Path

from drafter_trainer.benchmark.comparison import compare_results
from drafter_trainer.cli.launch import run_recipe
from drafter_trainer.results import read_results


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="recipes/compare.py", description=__doc__.partition("\n")[0])
    parser.add_argument("a", type=Path, metavar="A", help="A results.json")
    parser.add_argument("b", type=Path, metavar="B", help="The one that is compared with it")
    paths = parser.parse_args(argv)
    print(compare_results(read_results(paths.a), read_results(paths.b)))


if __name__ == "__main__":
    run_recipe(main)
