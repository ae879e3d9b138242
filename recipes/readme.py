"""Write the tables of committed results into the README, each between its two marks.

    make readme

The numbers come from hub_cards/*/results.json, which publish.py left there, and from sampling/results.json beside
them where T = 1 was measured in a run of its own: the table that quickstart printed, an overview of all other
drafters, and the whole table of the first of them.
"""

import sys
from pathlib import Path
from typing import Any

from drafter_trainer.benchmark.report import overview_table, speedup_tables
from drafter_trainer.benchmark.results import read_results

CARDS = Path("hub_cards")
QUICKSTART = CARDS / "smollm2-135m-quickstart-drafter-de-en" / "results.json"
README = Path("README.md")


def main() -> None:
    paths = [path for path in sorted(CARDS.glob("*/results.json")) if path != QUICKSTART]
    text = README.read_text(encoding="utf-8")
    text = put(text, "quickstart", speedup_tables(read_results(QUICKSTART)))
    overview = overview_table([read_with_sampling(path) for path in paths])
    text = put(text, "drafters", f"{overview}\n\n{speedup_tables(read_results(paths[0]))}")
    README.write_text(text, encoding="utf-8")


def read_with_sampling(path: Path) -> dict[str, Any]:
    results, beside = read_results(path), path.parent / "sampling" / path.name
    if beside.is_file():
        sampling = read_results(beside)
        of, also_of = (each["provenance"]["drafter_fingerprint"] for each in (results, sampling))
        if of != also_of:
            sys.exit(f"error: {beside} measures another drafter than {path}: measure both again")
        results["runs"] += sampling["runs"]
    return results


def put(text: str, name: str, tables: str) -> str:
    begin, end = f"<!-- {name}: make readme -->", f"<!-- end of {name} -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    if not after:
        sys.exit(f"error: {README} lacks the marks {begin} and {end}: put them back")
    return f"{before}{begin}\n{tables}\n{end}{after}"


if __name__ == "__main__":
    main()
