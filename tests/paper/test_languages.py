"""Languages side by side: each cell is the method that it is headed by, and nothing unmeasured has a number."""

from pathlib import Path

from matplotlib.image import imread

from benchmarks.paper.languages import Measured, language_tables, plot_languages
from tests.benchmark.made import make_run
from tests.paper.test_matrix import rows

SECONDS = {
    "plain": [8.0, 8.0],
    "prompt lookup": [8.0, 6.0],
    "n-gram table": [4.0, 4.0],
    "network of answers": [5.0, 5.0],
    "network of text": [16.0, 16.0],
    "network of both": [4.0, 6.0],
    "hybrid": [3.0, 3.2],
}


def run(published: str, task: str, **other) -> dict:
    """Make a run in which the published strategy is measured as the drafter."""
    seconds = {name: took for name, took in SECONDS.items() if name != published} | {"drafter": SECONDS[published]}
    return make_run(seconds, task=task, pair="en-oc", **other)


COLLECTED = {
    "text": {
        "train": {"rows": 1000},
        "fertility": {
            "tokens_per_character": 0.5,
            "tokens_per_character_over_english": 2.125,
            "tokens_per_byte": 0.4,
        },
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


def test_published_is_held_against_the_best_single_strategy() -> None:
    """A mixture that loses to one of its parts is what a user must be told first."""
    _, _, occitan, english = tables()["### Speedup: translation"]
    assert occitan[10].startswith("1.29x")  # 8 s of the table over 6.2 s
    assert english[10] == "-"  # it is the best single one itself
    assert [row[11][:5] for row in (occitan, english)] == ["2.26x", "1.75x"]


def test_tasks_and_costs_have_tables_of_their_own() -> None:
    """A language that was measured on one task alone must not get the other's numbers."""
    every = tables()
    assert [row[0] for row in every["### Speedup: story"][2:]] == ["Occitan"]
    assert every["### Acceptance α: story"][2][1:] == ["0.67"] * 6
    _, _, occitan, english = every["### What a language costs"]
    assert occitan[1:4] == ["0.50", "2.12", "0.40"]
    assert occitan[8:] == ["512", "25%", "1000"]
    assert english[0] == "Occitan to English"
    assert every["### What a strategy takes"][2:] == [
        ["n-gram table", "1.5", "nothing is trained"],
        ["network of answers", "200.0", "61-90"],
    ]


def test_adapter_has_a_column_where_there_was_a_base() -> None:
    """Most languages have no base to adapt; a column of the published drafter's numbers would be made up."""
    seconds = SECONDS | {"adapter over a base": [4.0, 4.0]}
    adapted = make_run(
        {("drafter" if name == "hybrid" else name): took for name, took in seconds.items()}, pair="en-oc"
    )
    both = [measured("en-oc", adapted), measured("en-ig", run("hybrid", "translation"))]
    table = rows(language_tables(both).split("\n\n")[1])
    assert table[0][8:10] == ["adapter over a base", "hybrid"]
    assert [row[8][:5] for row in table[2:]] == ["2.00x", "-"]
    assert [row[9][:5] for row in table[2:]] == ["2.58x", "2.58x"]


def test_plot_shows_every_language(tmp_path: Path) -> None:
    """A language without one of the tasks must not break the picture of all."""
    few = [measured("en-oc", run("hybrid", "translation"))]
    codes = ("ig", "yo", "de", "fr", "ru")
    many = [*few, *(measured(f"en-{code}", run("hybrid", "translation"), run("hybrid", "story")) for code in codes)]
    widths = []
    for number, several in enumerate((few, many)):
        plot_languages(several, tmp_path / f"{number}.png")
        widths.append(imread(tmp_path / f"{number}.png").shape)
    assert widths[1][0] > widths[0][0]
    assert widths[1][1] > widths[0][1]
