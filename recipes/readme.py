"""Write the tables of committed results into the README, between its two marks.

    make readme

The numbers come from hub_cards/*/results.json, which publish.py left there: an overview of all drafters, and the whole
table of the first.
"""

import sys
from pathlib import Path

from drafter_trainer.benchmark.report import overview_table, speedup_tables
from drafter_trainer.benchmark.results import read_results

RESULTS = "hub_cards/*/results.json"
README = Path("README.md")
BEGIN, END = "<!-- table: make readme -->", "<!-- end of table -->"


def main() -> None:
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        sys.exit(f"error: {README} lacks the marks {BEGIN} and {END}: put them back")
    several = [read_results(path) for path in sorted(Path().glob(RESULTS))]
    tables = f"{overview_table(several)}\n\n{speedup_tables(several[0])}"
    README.write_text(f"{before}{BEGIN}\n{tables}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
