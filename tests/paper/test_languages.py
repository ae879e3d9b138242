"""Languages side by side: each cell is the method that it is headed by, and nothing unmeasured has a number."""

from benchmarks.paper.languages import Measured, language_tables
from tests.benchmark.made import make_run

SECONDS = {
    "plain": [8.0, 8.0],
    "prompt lookup": [8.0, 6.0],
    "n-gram table": [4.0, 4.0],
    "network of answers": [5.0, 5.0],
    "network of text": [16.0, 16.0],
    "network of both": [4.0, 6.0],
    "hybrid": [3.0, 3.2],
}


def rows(table: str) -> list[list[str]]:
    """Cells of a table's lines."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[each.strip() for each in line.strip("|").split("|")] for line in lines]


def run(published: str, task: str, **other) -> dict:
    """Make a run in which the published strategy is measured as the drafter."""
    seconds = {name: took for name, took in SECONDS.items() if name != published} | {"drafter": SECONDS[published]}
    return make_run(seconds, task=task, pair="en-oc", **other)


COLLECTED = {
    "text": {
        "train": {"rows": 1000},
        "fertility": {"tokens_per_character": 0.5, "tokens_per_character_over_english": 2.125, "tokens_per_byte": 0.4},
    },
    "distill": {"train": {"rows": 512, "languages": {"it": 3, "oc": 1}}},
}


TOOK = {
    "table": {"method": "n-gram table", "bytes": 3 << 19, "finetune_seconds": 0.0},
    "task": {"method": "network of answers", "bytes": 200 << 20, "finetune_seconds": 61.0},
}


def measured(pair: str, *runs: dict, took: dict | None = None) -> Measured:
    """Make what was measured of a language's drafter."""
    return Measured(pair, "org/target", runs, took or TOOK, COLLECTED)


def tables() -> dict[str, list[list[str]]]:
    """Render two languages, one of which was measured on one task alone; return the tables by their titles."""
    slower = {"task": TOOK["task"] | {"finetune_seconds": 90.0}}
    several = [
        measured("en-oc", run("hybrid", "translation"), run("hybrid", "story")),
        measured("oc-en", run("n-gram table", "translation"), took=slower),
    ]
    parts = language_tables(several).split("\n\n")
    return dict(zip(parts[::2], map(rows, parts[1::2])))


def test_a_column_holds_its_strategy_whichever_was_published() -> None:
    """The published strategy is called the drafter in its results, and would be missing from its own column."""
    header, _, occitan, english = tables()["### Speedup: translation"]
    assert header[3:9] == [
        "prompt lookup",
        "n-gram table",
        "network of answers",
        "network of text",
        "network of both",
        "hybrid",
    ]
    assert [row[0] for row in (occitan, english)] == ["Occitan", "Occitan to English"]
    assert [cell[:5] for cell in occitan[3:9]] == [cell[:5] for cell in english[3:9]]
    assert [cell[:5] for cell in occitan[3:9]] == ["1.14x", "2.00x", "1.60x", "0.50x", "1.60x", "2.58x"]
    assert (occitan[9], english[9]) == ("hybrid", "n-gram table")
