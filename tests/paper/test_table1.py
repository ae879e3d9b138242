"""Published numbers next to this project's."""

import json
import statistics
from typing import Any

import pytest

from benchmarks.paper.table1 import PAPER as FILE
from benchmarks.paper.table1 import paper_tables
from tests.benchmark.made import make_results, make_run

PAPER = json.loads(FILE.read_text(encoding="utf-8"))
SMALL = {
    "source": "A paper, Table 9",
    "target": "a target",
    "drafter": "a drafter",
    "device": "a device",
    "pairs": ["de-en", "fr-en"],
    "rows": [
        {"method": "theirs", "counterpart": None, "greedy": ["1.0", "2.0", "1.5"], "sampled": [None, None, None]},
        {"method": "PLD", "counterpart": "prompt lookup", "greedy": ["1.1", "1.2", "1.1"], "sampled": ["3", "4", "5"]},
        {"method": "SpS", "counterpart": "drafter", "greedy": ["7", "8", "7.5"], "sampled": ["1", "2", "1.5"]},
    ],
}


def measured(pair: str, drafter: float, **runs: Any) -> dict[str, Any]:
    """Results of a drafter that is `drafter` times as fast, greedily and with two seeds."""
    plain = [2.0] * 8
    own = [2.0 / drafter] * 8
    greedy = {"plain": plain, "prompt lookup, 5": [1.0] * 8, "prompt lookup, 10": [0.5] * 8}
    greedy |= {"drafter, stock loop": [4.0] * 8, "drafter without network": [1.6] * 8, "drafter": own}
    sampled = [
        make_run({"plain": plain, "drafter": [seconds] * 8}, temperature=1.0, seed=seed, pair=pair)
        for seed, seconds in enumerate((1.0, 0.5))
    ]
    return make_results(make_run(greedy, pair=pair), *sampled)


def rows(text: str) -> dict[tuple[str, str], list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {(row[0], row[1]): row[2:] for row in table}


def test_numbers_are_in_the_rows_and_columns_of_their_counterparts() -> None:
    """A number in another pair's column, or of another draft length, is a wrong comparison."""
    text = paper_tables(SMALL, [measured("fr-en", 4.0), measured("de-en", 2.0)])
    greedy, sampled = text.split("### ")[1:]
    found = rows(greedy)
    assert found["paper", "theirs"] == ["1.0", "2.0", "1.5"]
    best = "4.00x (4.00-4.00)"
    assert found["here", "prompt lookup"] == [best, best, "4.00x"]
    assert found["here", "drafter"] == ["2.00x (2.00-2.00)", "4.00x (4.00-4.00)", "3.00x"]
    assert found["here", "drafter, stock loop"][0] == "0.50x (0.50-0.50)"
    assert found["here", "drafter without network"][2] == "1.25x"
    assert ("here", "plain") not in found
    # The baseline's nine tokens for ten make the paper's ratio larger by a ninth.
    assert found["here", "drafter, by the paper's script"] == ["2.22x", "4.44x", "3.33x"]
    found = rows(sampled)
    assert found["paper", "theirs"] == ["-", "-", "-"]
    assert found["here", "prompt lookup"] == ["-", "-", "-"]
    assert found["here", "drafter"] == ["3.00x (2.00-4.00)", "3.00x (2.00-4.00)", "3.00x"]
    assert list(rows(greedy))[2:5] == [("paper", "theirs"), ("paper", "PLD"), ("here", "prompt lookup")]


@pytest.mark.parametrize("row", PAPER["rows"], ids=lambda row: row["method"])
def test_copied_numbers_have_the_printed_mean(row: dict[str, Any]) -> None:
    """An error in copying changes the mean, which the paper prints too."""
    for cells in (row["greedy"], row["sampled"]):
        assert len(cells) == len(PAPER["pairs"]) + 1
        if None in cells:
            assert set(cells) == {None}
            continue
        *values, mean = (float(cell.split(" ± ")[0]) for cell in cells)
        assert statistics.mean(values) == pytest.approx(mean, abs=0.0101)
