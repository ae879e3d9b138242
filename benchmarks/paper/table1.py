"""Table 1 of arXiv 2406.16758, with this project's numbers below each of its rows.

    python -m benchmarks.paper.table1 runs/gemma-3-270m-drafter-*-en/results.json

Prints the two tables, greedy and at T = 1. Each file holds the results of one pair.
"""

import argparse
import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drafter_trainer.benchmark.report import device_line, interval_text, markdown_table
from drafter_trainer.benchmark.statistics import Interval
from drafter_trainer.results import DRAFTER, PLAIN, find_method, read_results

PAPER = Path(__file__).with_name("table1.json")
_UNMEASURED = "-"
_LENGTH = re.compile(r", \d+$")  # "prompt lookup, 10" is prompt lookup with drafts of 10 tokens


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="Files written by the benchmark, one for each pair")
    options = parser.parse_args(argv)
    paper = json.loads(PAPER.read_text(encoding="utf-8"))
    print(paper_tables(paper, [read_results(path) for path in options.results]))


def paper_tables(paper: dict[str, Any], several: Sequence[dict[str, Any]]) -> str:
    """Render a paper's table with this project's numbers below each of its rows: greedy, then at T = 1.

    Greedy numbers of this project have their bootstrap interval; numbers at T = 1 are means over seeds, with the
    lowest and the highest. A method with several draft lengths counts at its best length. A missing figure is a dash.

    Args:
        paper (`dict`): Contents of `table1.json`: `source`, `target`, `drafter`, `device`, `pairs`, and
            `rows` of `method`, `counterpart` (this project's name for it, or `None`), `greedy` and `sampled` cells.
        several (`Sequence[dict]`): This project's results, one for each drafter.
    """
    runs = [run for results in several for run in results["runs"]]
    header = ["where", "method", *paper["pairs"], "mean"]
    parts = [
        f"*Paper*: {paper['source']}: target {paper['target']}, drafter {paper['drafter']}, {paper['device']}; "
        "± as printed there.",
        f"*Here*: {_measured(several)}.",
    ]
    for name, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        chosen = [run for run in runs if run["temperature"] == temperature]
        rows = []
        for row in paper["rows"]:
            rows.append(["paper", row["method"], *(cell or _UNMEASURED for cell in row[name])])
            if row["counterpart"]:
                rows.append(["here", *_row(row["counterpart"], chosen, paper["pairs"])])
        told = {PLAIN, *(row["counterpart"] for row in paper["rows"])}
        names = {_LENGTH.sub("", method["name"]): None for run in chosen for method in run["methods"]}  # ordered
        rows += [["here", *_row(other, chosen, paper["pairs"])] for other in names if other not in told]
        rows.append(["here", *_paper_ratios(chosen, paper["pairs"])])
        title = "Greedy" if temperature == 0 else f"T = {temperature:g}"
        parts.append(f"### {title}\n\n{markdown_table(header, rows)}")
    return "\n\n".join(parts)


def _measured(several: Sequence[dict[str, Any]]) -> str:
    """Describe the machines and settings of this project's numbers."""
    targets = sorted({results["provenance"]["target"] for results in several})
    devices = sorted({device_line(results) for results in several})
    runs = [run for results in several for run in results["runs"]]
    dtypes = sorted({run["dtype"] for run in runs})
    greedy = sorted({run["questions"]["count"] for run in runs if run["temperature"] == 0})
    sampled = sorted({run["questions"]["count"] for run in runs if run["temperature"] > 0})
    seeds = len({run["seed"] for run in runs if run["temperature"] > 0})
    looping = [find_method(run, PLAIN)["looping_share"] for run in runs]
    counts = " or ".join(map(str, greedy)) + " questions greedy"
    if sampled:
        counts += f", {' or '.join(map(str, sampled))} questions and {seeds} seeds at T = 1"
    loops = f"of plain outputs {min(looping):.0%} to {max(looping):.0%} end in a loop, by run"
    return f"target {', '.join(targets)}, {', '.join(dtypes)}, batch size 1, {'; '.join(devices)}; {counts}; {loops}"


def _row(name: str, runs: Sequence[dict[str, Any]], pairs: Sequence[str]) -> list[str]:
    cells, values = [], []
    for pair in pairs:
        # One greedy run; at T = 1, one run for each seed.
        found = [best for run in runs if run["pair"] == pair and (best := _best(run, name))]
        if not found:
            cells.append(_UNMEASURED)
            continue
        values.append(statistics.mean(speedup.value for speedup in found))
        single = [speedup.value for speedup in found]
        cells.append(interval_text(found[0] if len(found) == 1 else Interval(values[-1], min(single), max(single))))
    mean = f"{statistics.mean(values):.2f}x" if len(values) == len(pairs) else _UNMEASURED
    return [name, *cells, mean]


def _best(run: dict[str, Any], name: str) -> Interval | None:
    several = [Interval(**method["speedup"]) for method in run["methods"] if _LENGTH.sub("", method["name"]) == name]
    return max(several, key=lambda speedup: speedup.value, default=None)


def _paper_ratios(runs: Sequence[dict[str, Any]], pairs: Sequence[str]) -> list[str]:
    values = []
    for pair in pairs:
        ratios = [
            method["paper_script_ratio"]
            for run in runs
            if run["pair"] == pair
            for method in run["methods"]
            if method["name"] == DRAFTER
        ]
        values.append(statistics.mean(ratios) if ratios else None)
    mean = None if None in values else statistics.mean(values)
    cells = [_UNMEASURED if value is None else f"{value:.2f}x" for value in (*values, mean)]
    return [f"{DRAFTER}, by the paper's script", *cells]


if __name__ == "__main__":
    main()
