"""The matrix: every cell says its figure, its interval and its questions, or why it has none."""

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drafter_trainer.benchmark.matrix import Cell, matrix_tables, plot_matrix, ratio
from drafter_trainer.cli.benchmark_arguments import MatrixArguments
from drafter_trainer.errors import InputError

ROOT = Path(__file__).parents[2]
CARD = ROOT / "hub_cards" / "smollm2-135m-drafter-de-en"


def results(value: float, accepted: list[int], drafted: list[int], temperature: float = 0.0) -> dict[str, Any]:
    prompts = [{"accepted": a, "drafted": d} for a, d in zip(accepted, drafted)]
    speedup = {"value": value, "low": value - 0.25, "high": value + 0.25}
    method = {"name": "drafter", "speedup": speedup, "prompts": prompts}
    return {
        "runs": [{"temperature": temperature, "seed": 0, "questions": {"count": len(prompts)}, "methods": [method]}]
    }


def rows(table: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")
    ]


CELLS = [
    Cell("one", "translation", "de-en", results(2.0, [3, 3], [4, 4])),
    Cell("one", "story", "de-en", reason="the tokenizer | differs"),
    Cell("two", "translation", "de-en", results(0.5, [0, 0], [0, 0])),
    Cell("two", "story", "de-en", results(1.0, [1], [2])),
]


def test_every_cell_is_there() -> None:
    """A cell left out is taken for one that nobody thought of, and hides what failed."""
    _, speedups, why, _, acceptance, why_none = matrix_tables(CELLS).split("\n\n")
    assert rows(speedups)[0] == ["drafter", "translation, de-en", "story, de-en"]
    assert rows(speedups)[2:] == [
        ["one", "2.00x (1.75-2.25), 2", "none: note 1"],
        ["two", "0.50x (0.25-0.75), 2", "1.00x (0.75-1.25), 1"],
    ]
    assert why == "1. the tokenizer | differs"
    assert rows(acceptance)[2:] == [
        ["one", "0.75 (0.75-0.75), 2", "none: note 1"],
        ["two", "none: note 2", "0.50 (0.50-0.50), 1"],
    ]
    assert why_none == "1. the tokenizer | differs\n2. nothing was drafted"


def test_settings_that_a_cell_lacks_are_said() -> None:
    """A greedy figure in a table of T = 1 would be another measurement's."""
    sampled_only = Cell("three", "translation", "de-en", results(3.0, [1], [1], 1.0))
    tables = matrix_tables([CELLS[0], sampled_only])
    greedy, _, sampled, _ = tables.split("\n\n")[1::3]
    assert rows(greedy)[2:] == [["one", "2.00x (1.75-2.25), 2"], ["three", "none: note 1"]]
    assert rows(sampled)[2:] == [["one", "none: note 1"], ["three", "3.00x (2.75-3.25), 1"]]
    assert tables.count("1. not measured in this setting") == 4


def test_acceptance_is_a_ratio_of_totals_with_its_interval() -> None:
    """A mean of ratios would let a prompt with one draft weigh as much as one with a hundred."""
    found = ratio(np.array([90, 0]), np.array([100, 2]))
    assert found.value == 90 / 102
    # The three draws of two prompts: both the first, one of each, both the second
    assert (found.low, found.high) == (0.0, 0.9)


def test_heat_map_shows_every_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture says the same as the table."""
    written: list[str] = []
    monkeypatch.setattr("matplotlib.axes.Axes.text", lambda self, x, y, text, **given: written.append(text))
    plot_matrix(CELLS, tmp_path / "matrix.png")
    assert written[:4] == ["2.00\n1.75-2.25\n2 q.", "not done", "0.50\n0.25-0.75\n2 q.", "1.00\n0.75-1.25\n1 q."]
    assert written[4:] == ["0.75\n0.75-0.75\n2 q.", "not done", "not done", "0.50\n0.50-0.50\n1 q."]
    assert (tmp_path / "matrix.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_measured_is_a_grey_map(tmp_path: Path) -> None:
    """Where every cell failed, the reasons must still come out."""
    cells = [Cell("one", "story", "de-en", reason="no such file")]
    assert "1. no such file" in matrix_tables(cells)
    plot_matrix(cells, tmp_path / "matrix.png")


def test_columns_are_tasks_times_pairs_unless_a_task_has_its_own() -> None:
    """English questions asked once for each pair would be the same measurement five times."""
    matrix = MatrixArguments(
        drafters=["d"],
        tasks=["translation", "summarisation:de-en"],
        pairs=["de-en", "fr-en"],
        task_questions=["translation=data/{pair}.jsonl"],
    )
    assert matrix.columns == [("translation", "de-en"), ("translation", "fr-en"), ("summarisation", "de-en")]
    assert matrix.questions("translation", "fr-en") == "data/fr-en.jsonl"
    assert matrix.questions("summarisation", "de-en") is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"drafters": []}, "give --drafters"),
        ({"pairs": []}, "no pairs: give --pairs"),
        ({"pairs": ["de-xx"]}, "unknown language 'xx'"),
        ({"task_questions": ["story=a.jsonl"]}, "task_questions are TASK=SOURCE of the tasks translation, got story"),
        ({"task_questions": ["a.jsonl"]}, "TASK=SOURCE"),
    ],
)
def test_mistakes_are_said(given: dict[str, list[str]], message: str) -> None:
    """A matrix of hours must not end on a mistyped name."""
    with pytest.raises(InputError, match=message):
        MatrixArguments(**{"drafters": ["d"], "tasks": ["translation"], "pairs": ["de-en"]} | given)


def recipe_main() -> Callable[[list[str]], None]:
    specification = importlib.util.spec_from_file_location("recipe_matrix", ROOT / "recipes" / "matrix.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.main


def test_recipe_takes_results_that_are_there_and_says_what_cannot_be_done(tmp_path: Path) -> None:
    """Committed results are shown without measuring, and what cannot be measured does not end the rest."""
    config = tmp_path / "matrix.yaml"
    config.write_text(f"base: {ROOT}/recipes/configs/smollm2-135m/common.yaml\n", encoding="utf-8")
    shutil.copytree(CARD, tmp_path / "card")
    options = ["--drafters", str(tmp_path / "card"), str(tmp_path / "absent"), "--tasks", "translation", "story"]
    recipe_main()(["--config", str(config), *options, "--pairs", "de-en", "--out", str(tmp_path / "out")])
    _, table, notes, *_ = (tmp_path / "out" / "matrix.md").read_text(encoding="utf-8").split("\n\n")
    _, _, card, absent = rows(table)
    assert card[0] == "smollm2-135m-drafter-de-en"
    assert card[1].endswith("), 16")
    assert card[2] == "none: note 1"
    assert absent[0].endswith("absent")
    assert absent[1:] == ["none: note 2", "none: note 2"]
    first, second = notes.splitlines()
    assert first.endswith("card holds other results and no drafter to measure")
    assert second.startswith("2. ")
    assert "absent is neither a folder" in second
    assert (tmp_path / "out" / "matrix.png").is_file()
    cards = ["--drafters", str(tmp_path / "card"), str(CARD), "--tasks", "translation:de-en"]
    with pytest.raises(InputError, match="two of the drafters are called smollm2-135m-drafter-de-en"):
        recipe_main()(["--config", str(config), *cards, "--out", str(tmp_path / "out")])
