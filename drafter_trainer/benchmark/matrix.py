"""Drafters × tasks × languages: one measurement for each cell, as a table and as heat maps."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from drafter_trainer.benchmark.report import markdown_table
from drafter_trainer.benchmark.statistics import Interval, interval, resamples
from drafter_trainer.decoding.sampling import describe_sampling
from drafter_trainer.results import DRAFTER

matplotlib.use("agg")
import matplotlib.pyplot as plt

FIGURES = {"speedup": "over plain decoding", "acceptance rate": "accepted / drafted tokens"}
_NOTHING_DRAFTED = "nothing was drafted"


@dataclass(frozen=True)
class Cell:
    """Hold what was measured of one drafter on one task.

    Args:
        drafter (`str`): Its name.
        task (`str`): Name of the task.
        pair (`str`): The pair that it was asked in.
        results (`dict`, *optional*): Its `results.json`.
        reason (`str`, *optional*): Where there are no results, why.
    """

    drafter: str
    task: str
    pair: str
    results: dict[str, Any] | None = None
    reason: str | None = None

    @property
    def column(self) -> str:
        """What its column is called."""
        return f"{self.task}, {self.pair}"

    def run(self, setting: tuple[float, int]) -> dict[str, Any] | None:
        """Return its run at a temperature and seed, if there is one."""
        for run in self.results["runs"] if self.results else ():
            if (run["temperature"], run["seed"]) == setting:
                return run
        return None

    def figure(self, name: str, setting: tuple[float, int]) -> Interval | str:
        """Return one of `FIGURES` with its 95 % interval, or why there is none."""
        run = self.run(setting)
        if run is None:
            return self.reason or "not measured in this setting"
        method = next((method for method in run["methods"] if method["name"] == DRAFTER), None)
        if method is None:
            return f"the results have no method {DRAFTER}"
        if name == "speedup":
            return Interval(**method["speedup"])
        return ratio(*(np.array([prompt[key] for prompt in method["prompts"]]) for key in ("accepted", "drafted")))


def ratio(parts: np.ndarray, wholes: np.ndarray) -> Interval | str:
    """Compute a ratio of totals with a bootstrap over prompts.

    Args:
        parts, wholes (`np.ndarray` of shape `(prompts,)`): Counts of each prompt.
    Returns:
        `Interval`, or why there is none.
    """
    if not wholes.sum():
        return _NOTHING_DRAFTED
    chosen = resamples(len(wholes))
    resampled = np.stack([parts[chosen].sum(axis=1), wholes[chosen].sum(axis=1)])
    resampled = resampled[:, resampled[1] > 0]
    return interval(parts.sum() / wholes.sum(), resampled[0] / resampled[1])


def settings_of(cells: Iterable[Cell]) -> list[tuple[float, int]]:
    """List the temperatures and seeds at which any cell was measured; greedy where none was measured at all."""
    found = {(run["temperature"], run["seed"]) for cell in cells if cell.results for run in cell.results["runs"]}
    return sorted(found) or [(0.0, 0)]


def matrix_tables(cells: Sequence[Cell]) -> str:
    """Render a table of each figure in each setting: a row for each drafter, a column for each task and pair.

    A cell is the figure with its 95 % interval and, behind a comma, its number of questions; or the number of a note
    below the table that says why there is none.
    """
    rows, columns = _axes(cells)
    tables = []
    for setting in settings_of(cells):
        said = describe_sampling(*setting)
        for name, meaning in FIGURES.items():
            notes: dict[str, int] = {}
            by_place = {(cell.drafter, cell.column): _written(cell, name, setting, notes) for cell in cells}
            body = [[row, *(by_place[row, column] for column in columns)] for row in rows]
            title = f"{name.capitalize()}, {meaning}, {said}; in brackets 95 % over questions, then their number"
            tables += [title, markdown_table(["drafter", *columns], body)]
            if notes:
                tables.append("\n".join(f"{number}. {reason}" for reason, number in notes.items()))
    return "\n\n".join(tables)


def plot_matrix(cells: Sequence[Cell], path: Path) -> None:
    """Draw a heat map of each figure in each setting; cells without figures are grey.

    Args:
        cells (`Sequence[Cell]`): One for each drafter and column.
        path (`Path`): Picture that is written.
    Source: after figures 5 and 8 of arXiv 2406.16758
    """
    rows, columns = _axes(cells)
    settings = settings_of(cells)
    size = (2 * (2.2 + 1.3 * len(columns)), len(settings) * (1.8 + 0.6 * len(rows)))
    figure, axes = plt.subplots(len(settings), len(FIGURES), figsize=size, layout="constrained", squeeze=False)
    for line, setting in zip(axes, settings):
        for axis, name in zip(line, FIGURES):
            _draw(axis, cells, rows, columns, name, setting)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw(
    axis: plt.Axes, cells: Sequence[Cell], rows: list[str], columns: list[str], name: str, setting: tuple[float, int]
) -> None:
    values = np.full((len(rows), len(columns)), np.nan)
    for cell in cells:
        found = cell.figure(name, setting)
        place = rows.index(cell.drafter), columns.index(cell.column)
        text = "not done"
        if isinstance(found, Interval):
            values[place] = found.value
            text = f"{found.value:.2f}\n{found.low:.2f}-{found.high:.2f}\n{cell.run(setting)['questions']['count']} q."
        axis.text(place[1], place[0], text, ha="center", va="center", fontsize=7)
    colours = plt.get_cmap("RdYlBu" if name == "speedup" else "Blues").with_extremes(bad="lightgrey")
    # Yellow is where nothing is gained and nothing lost.
    furthest = max(np.nanmax(np.abs(values - 1)), 0.1) if np.isfinite(values).any() else 1.0
    limits = (1 - furthest, 1 + furthest) if name == "speedup" else (0, 1)
    axis.imshow(np.ma.masked_invalid(values), cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto", alpha=0.6)
    axis.set_xticks(range(len(columns)), [column.replace(", ", "\n") for column in columns], fontsize=7)
    axis.set_yticks(range(len(rows)), rows, fontsize=7)
    axis.set_title(f"{name}, {describe_sampling(*setting)}", fontsize=9)


def _axes(cells: Iterable[Cell]) -> tuple[list[str], list[str]]:
    """List drafters and columns, each once, in their order."""
    cells = list(cells)
    return list(dict.fromkeys(cell.drafter for cell in cells)), list(dict.fromkeys(cell.column for cell in cells))


def _written(cell: Cell, name: str, setting: tuple[float, int], notes: dict[str, int]) -> str:
    found = cell.figure(name, setting)
    if isinstance(found, str):
        return f"none: note {notes.setdefault(found, len(notes) + 1)}"
    unit = "x" if name == "speedup" else ""
    count = cell.run(setting)["questions"]["count"]
    return f"{found.value:.2f}{unit} ({found.low:.2f}-{found.high:.2f}), {count}"
