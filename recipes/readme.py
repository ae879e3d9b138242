"""Write the tables of committed results into the README, each between its two marks.

    make readme

The numbers come from hub_cards/*/results.json, which publish.py left there: the table that quickstart printed, an
overview of all other drafters, and the whole table of the first of them.
"""

import sys
from pathlib import Path

from drafter_trainer.benchmark.report import overview_table, speedup_tables
from drafter_trainer.benchmark.results import read_results

CARDS = Path("hub_cards")
QUICKSTART = CARDS / "smollm2-135m-quickstart-drafter-de-en" / "results.json"
README = Path("README.md")


def main() -> None:
    drafters = [read_results(path) for path in sorted(CARDS.glob("*/results.json")) if path != QUICKSTART]
    text = README.read_text(encoding="utf-8")
    text = put(text, "quickstart", speedup_tables(read_results(QUICKSTART)))
    text = put(text, "drafters", f"{overview_table(drafters)}\n\n{speedup_tables(drafters[0])}")
    README.write_text(text, encoding="utf-8")


def put(text: str, name: str, tables: str) -> str:
    begin, end = f"<!-- {name}: make readme -->", f"<!-- end of {name} -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    if not after:
        sys.exit(f"error: {README} lacks the marks {begin} and {end}: put them back")
    return f"{before}{begin}\n{tables}\n{end}{after}"


if __name__ == "__main__":
    main()
