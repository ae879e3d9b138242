"""Count the rows of a drafter's training data: completions, tokens and dropped rows by pair and temperature.

python benchmarks/rows.py runs/*/distill
"""

import argparse
from collections import Counter
from pathlib import Path

import pyarrow.compute as pc
from reporting import RESULTS, report

from drafter_trainer.distillation.store import RowStore
from drafter_trainer.runs import finished_step


def main() -> None:
    """Count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="Finished distillations")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows, tokens, worth = Counter(), Counter(), {}
    for folder in options.folders:
        facts = finished_step(folder, "distill first")["facts"]["train"]
        for table in RowStore(folder / "train").tables(["pair", "temperature", "response_ids"]):
            lengths = pc.list_value_length(table["response_ids"]).to_numpy()
            for pair, temperature, length in zip(table["pair"].to_pylist(), table["temperature"].to_pylist(), lengths):
                kind = (pair, round(temperature, 2))
                rows[kind] += 1
                tokens[kind] += int(length)
        of_pair = worth.setdefault(table["pair"][0].as_py(), Counter())
        languages = facts["languages"]
        of_pair += Counter(rows=facts["rows"], looping=facts["looping"], cut=facts["cut_by_length"])
        of_pair += Counter(english=languages.get("en", 0), identified=sum(languages.values()))
        of_pair += Counter(dropped=sum(facts["dropped"].values()))
    figures = [
        {
            "pair": pair,
            "temperature": temperature,
            "rows": rows[pair, temperature],
            "tokens": tokens[pair, temperature],
        }
        for pair, temperature in sorted(rows)
    ]
    ratios = {"all tokens": float(sum(tokens.values()))}
    for pair, counted in sorted(worth.items()):
        ratios[f"{pair}: share of identified completions that are English"] = (
            counted["english"] / counted["identified"]
        )
        ratios[f"{pair}: share that loops"] = counted["looping"] / counted["rows"]
        ratios[f"{pair}: share cut by the limit of tokens"] = counted["cut"] / counted["rows"]
        ratios[f"{pair}: rows dropped"] = float(counted["dropped"])
    report("rows", figures, ratios, options.out)


if __name__ == "__main__":
    main()
