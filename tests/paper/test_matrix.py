"""The matrix: every cell shows its figure, its interval and its number of questions, or that it was not measured."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.paper.matrix import Cell, main, matrix_tables, read_cells
from drafter_trainer.errors import InputError
from drafter_trainer.results import write_results
from tests.benchmark.made import make_results, make_run


def cell(
    drafter: str, task: str, value: float, accepted: list[int], drafted: list[int], temperature: float = 0.0
) -> Cell:
    prompts = [{"accepted": a, "drafted": d} for a, d in zip(accepted, drafted)]
    speedup = {"value": value, "low": value - 0.25, "high": value + 0.25}
    run: dict[str, Any] = {"task": task, "pair": "de-en", "temperature": temperature, "seed": 0}
    run |= {
        "questions": {"count": len(prompts)},
        "methods": [{"name": "drafter", "speedup": speedup, "prompts": prompts}],
    }
    return Cell(drafter, run)


def rows(table: str) -> list[list[str]]:
    """Cells of a table's lines."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[each.strip() for each in line.strip("|").split("|")] for line in lines]


CELLS = [
    cell("one", "translation", 2.0, [3, 3], [4, 4]),
    cell("two", "translation", 0.5, [0, 0], [0, 0]),
    cell("two", "story", 1.0, [1], [2]),
]


def test_every_cell_is_there() -> None:
    """A figure in another drafter's row or another task's column compares what does not belong together."""
    _, speedups, _, acceptance = matrix_tables(CELLS).split("\n\n")
    assert rows(speedups)[0] == ["drafter", "translation, de-en", "story, de-en"]
    assert rows(speedups)[2:] == [
        ["one", "2.00x (1.75-2.25), 2", "-"],
        ["two", "0.50x (0.25-0.75), 2", "1.00x (0.75-1.25), 1"],
    ]
    assert rows(acceptance)[2:] == [["one", "0.75 (0.75-0.75), 2", "-"], ["two", "-", "0.50 (0.50-0.50), 1"]]


def test_command_reads_results_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A cell that two files measure must not silently be the one that was read last."""
    for name, seconds in (("one", 1.0), ("two", 0.5)):
        run = make_run({"plain": [2.0] * 8, "drafter": [seconds] * 8})
        write_results(make_results(run, drafter=name), tmp_path / name / "results.json")
    files = [str(tmp_path / name / "results.json") for name in ("one", "two")]
    main([*files, "--out", str(tmp_path / "out")])
    table = rows(capsys.readouterr().out)
    assert [row[:2] for row in table[2:4]] == [["one", "2.00x (2.00-2.00), 8"], ["two", "4.00x (4.00-4.00), 8"]]
    assert (tmp_path / "out" / "matrix.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="measures one on translation, de-en a second time"):
        read_cells([Path(files[0]), Path(files[0])])
