"""Drafters × tasks × languages, as a table and as heat maps, after figures 5 and 8 of arXiv 2406.16758.

    python -m benchmarks.paper.matrix runs/matrix/*/*/results.json --out runs/matrix

Each run of the files is one cell: a drafter on a task in a pair, at a temperature and seed. Prints the tables and
writes matrix.md and matrix.png.
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from drafter_trainer.benchmark.report import markdown_table
from drafter_trainer.benchmark.statistics import Interval, interval, resamples
from drafter_trainer.decoding.sampling import describe_sampling
from drafter_trainer.errors import InputError
from drafter_trainer.results import DRAFTER, find_method, read_results

matplotlib.use("agg")
import matplotlib.pyplot as plt

FIGURES = {"speedup": "over plain decoding", "acceptance rate": "accepted / drafted tokens"}
_UNMEASURED = "-"


@dataclass(frozen=True)
class Cell:
    """One drafter's run on one task.

    Args:
        drafter (`str`): Name of the drafter.
        run (`dict`): The run, from a results file.
    """

    drafter: str
    run: dict[str, Any]

    @property
    def column(self) -> str:
        """Heading of the cell's column."""
        return f"{self.run['task']}, {self.run['pair']}"

    @property
    def setting(self) -> tuple[float, int]:
        """Temperature and seed of the run."""
        return self.run["temperature"], self.run["seed"]

    def figure(self, name: str) -> Interval | None:
        """Return one of `FIGURES` with its 95 % interval, or `None` if nothing was drafted."""
        method = find_method(self.run, DRAFTER)
        if name == "speedup":
            return Interval(**method["speedup"])
        return ratio(*(np.array([prompt[key] for prompt in method["prompts"]]) for key in ("accepted", "drafted")))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="Files written by the benchmark")
    parser.add_argument("--out", type=Path, required=True, help="Folder of matrix.md and matrix.png")
    options = parser.parse_args(argv)
    cells = read_cells(options.results)
    tables = matrix_tables(cells)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "matrix.md").write_text(tables + "\n", encoding="utf-8")
    plot_matrix(cells, options.out / "matrix.png")
    print(tables)


def read_cells(paths: Iterable[Path]) -> list[Cell]:
    """Read a cell for each run.

    Raises:
        InputError: If two files measure the same cell.
    """
    cells: dict[tuple, Cell] = {}
    for path in paths:
        results = read_results(path)
        for run in results["runs"]:
            cell = Cell(results["provenance"].get("drafter", path.parent.name), run)
            place = (cell.drafter, cell.column, cell.setting)
            if place in cells:
                raise InputError(f"{path} measures {cell.drafter} on {cell.column} a second time: name one file of it")
            cells[place] = cell
    return list(cells.values())


def ratio(parts: np.ndarray, wholes: np.ndarray) -> Interval | None:
    """Compute a ratio of totals with a bootstrap over prompts.

    Args:
        parts, wholes (`np.ndarray` of shape `(prompts,)`): Counts of each prompt.
    Returns:
        `Interval`, or `None` if the wholes are all zero.
    """
    if not wholes.sum():
        return None
    chosen = resamples(len(wholes))
    resampled = np.stack([parts[chosen].sum(axis=1), wholes[chosen].sum(axis=1)])
    resampled = resampled[:, resampled[1] > 0]
    return interval(parts.sum() / wholes.sum(), resampled[0] / resampled[1])


def matrix_tables(cells: Sequence[Cell]) -> str:
    """Render a table of each figure in each setting: a row for each drafter, a column for each task and pair."""
    rows, columns = _axes(cells)
    tables = []
    for setting in _settings(cells):
        for name, meaning in FIGURES.items():
            own = {(cell.drafter, cell.column): cell for cell in cells if cell.setting == setting}
            body = [[row, *(_written(own.get((row, column)), name) for column in columns)] for row in rows]
            tables += [
                f"{name.capitalize()}, {meaning}, {describe_sampling(*setting)}; in brackets the 95 % interval over "
                "questions, then their number",
                markdown_table(["drafter", *columns], body),
            ]
    return "\n\n".join(tables)


def _written(cell: Cell | None, name: str) -> str:
    found = cell and cell.figure(name)
    if not found:
        return _UNMEASURED
    unit = "x" if name == "speedup" else ""
    return f"{found.value:.2f}{unit} ({found.low:.2f}-{found.high:.2f}), {cell.run['questions']['count']}"


def plot_matrix(cells: Sequence[Cell], path: Path) -> None:
    """Draw a heat map of each figure in each setting; cells without figures are grey.

    Args:
        cells (`Sequence[Cell]`): Cells, at most one for each drafter, column and setting.
        path (`Path`): Path of the picture.
    """
    rows, columns = _axes(cells)
    settings = _settings(cells)
    size = (2 * (2.2 + 1.3 * len(columns)), len(settings) * (1.8 + 0.6 * len(rows)))
    figure, axes = plt.subplots(len(settings), len(FIGURES), figsize=size, layout="constrained", squeeze=False)
    for setting, line in zip(settings, axes):
        for name, axis in zip(FIGURES, line):
            _draw(axis, [cell for cell in cells if cell.setting == setting], rows, columns, name)
            axis.set_title(f"{name}, {describe_sampling(*setting)}", fontsize=9)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw(axis: plt.Axes, cells: Sequence[Cell], rows: list[str], columns: list[str], name: str) -> None:
    values = np.full((len(rows), len(columns)), np.nan)
    for cell in cells:
        if found := cell.figure(name):
            place = rows.index(cell.drafter), columns.index(cell.column)
            values[place] = found.value
            text = f"{found.value:.2f}\n{found.low:.2f}-{found.high:.2f}\n{cell.run['questions']['count']} q."
            axis.text(place[1], place[0], text, ha="center", va="center", fontsize=7)
    colors = plt.get_cmap("RdYlBu" if name == "speedup" else "Blues").with_extremes(bad="lightgrey")
    # Yellow marks neither gain nor loss.
    furthest = max(np.nanmax(np.abs(values - 1)), 0.1) if np.isfinite(values).any() else 1.0
    limits = (1 - furthest, 1 + furthest) if name == "speedup" else (0, 1)
    axis.imshow(np.ma.masked_invalid(values), cmap=colors, vmin=limits[0], vmax=limits[1], aspect="auto", alpha=0.6)
    axis.set_xticks(range(len(columns)), [column.replace(", ", "\n") for column in columns], fontsize=7)
    axis.set_yticks(range(len(rows)), rows, fontsize=7)


def _settings(cells: Iterable[Cell]) -> list[tuple[float, int]]:
    return sorted({cell.setting for cell in cells})


def _axes(cells: Iterable[Cell]) -> tuple[list[str], list[str]]:
    """List the distinct drafters and columns in their order."""
    cells = list(cells)
    return list(dict.fromkeys(cell.drafter for cell in cells)), list(dict.fromkeys(cell.column for cell in cells))


if __name__ == "__main__":
    main()
