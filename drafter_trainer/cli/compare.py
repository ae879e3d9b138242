"""Compare two results files: which methods became faster or slower, and what is noise.

    drafter-trainer compare runs/one/results.json runs/other/results.json

Prints, for each method in both files, the speedup in A and in B over the questions that both asked, their ratio with a
paired bootstrap interval, and a verdict. Other devices, versions, questions or settings are named first.
"""

from pathlib import Path

from drafter_trainer.benchmark.comparison import compare_results
from drafter_trainer.cli.configuration import simple_parser
from drafter_trainer.results import read_results


def main(argv: list[str]) -> None:
    """Run the step."""
    parser = simple_parser("compare", __doc__)
    parser.add_argument("a", type=Path, metavar="A", help="A results.json")
    parser.add_argument("b", type=Path, metavar="B", help="The results.json that is compared with A")
    paths = parser.parse_args(argv)
    print(compare_results(read_results(paths.a), read_results(paths.b)))
