"""Render the report of a results file again: report.md, report.html and plots/ beside it.

    drafter-trainer report runs/gemma-3-270m-drafter-de-en/results.json

Nothing is measured; the files are those that bench leaves.
"""

from pathlib import Path

from drafter_trainer.benchmark.page import write_report
from drafter_trainer.cli.configuration import simple_parser
from drafter_trainer.results import read_results


def main(argv: list[str]) -> None:
    """Run the step."""
    parser = simple_parser("report", __doc__)
    parser.add_argument("results", type=Path, help="A results.json")
    parser.add_argument("--output_dir", type=Path, help="Folder of the report (default: that of the results)")
    options = parser.parse_args(argv)
    folder = options.output_dir or options.results.parent
    write_report(read_results(options.results), folder)
    print(f"{folder / 'report.html'}, {folder / 'report.md'} and {folder / 'plots'}")
