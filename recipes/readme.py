"""Write the table of committed results into the README, between its two marks.

    make readme

The numbers come from hub_cards/smollm2-135m-drafter-de-en/results.json, which publish.py left there.
"""

import sys
from pathlib import Path

from drafter_trainer.benchmark.report import speedup_tables
from drafter_trainer.benchmark.results import read_results

RESULTS = Path("hub_cards/smollm2-135m-drafter-de-en/results.json")
README = Path("README.md")
BEGIN, END = "<!-- table: make readme -->", "<!-- end of table -->"


def main() -> None:
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        sys.exit(f"error: {README} lacks the marks {BEGIN} and {END}: put them back")
    table = speedup_tables(read_results(RESULTS))
    README.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
