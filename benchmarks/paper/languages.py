"""Drafters of many languages compared: strategy × task × language, as tables and heat maps.

`claims.py` is the command that renders them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from drafter_trainer.benchmark.report import interval_text, markdown_table
from drafter_trainer.benchmark.statistics import Interval, speedup
from drafter_trainer.benchmark.strategies import FILE_NAME, HYBRID, STRATEGIES
from drafter_trainer.benchmark.summary import timings
from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.errors import InputError
from drafter_trainer.hub.card_folder import read_measurements
from drafter_trainer.languages import get_pair
from drafter_trainer.results import DRAFTER, PLAIN, PROMPT_LOOKUP, find_method

matplotlib.use("agg")
import matplotlib.pyplot as plt

_DASH = "-"


@dataclass(frozen=True)
class Measured:
    """Measurements of one language's drafter.

    Args:
        pair (`str`): Pair of the drafter.
        target (`str`): Hub id of the target.
        runs (`tuple[dict, ...]`): Greedy runs of the drafter's results, one for each task.
        strategies (`dict`): Size and training time of each strategy, from `strategies.json`.
        collected (`dict`): Figures of the text and of the completions that they learned from, from the same file.
    """

    pair: str
    target: str
    runs: tuple[dict[str, Any], ...]
    strategies: dict[str, Any]
    collected: dict[str, Any]

    @property
    def language(self) -> str:
        """Name of the completions' language, and of the source language unless that is English."""
        pair = get_pair(self.pair)
        return pair.target.name if pair.source.code == "en" else f"{pair.source.name} to {pair.target.name}"

    @classmethod
    def read(cls, card: Path) -> "Measured":
        """Read a card's folder with the `strategies.json` that `make drafter` left there.

        Raises:
            InputError: If there is no such file, or the results are of another drafter.
        """
        path, description = card / FILE_NAME, DrafterDescription.read(card)
        if not path.is_file():
            raise InputError(f"{card} has no {FILE_NAME}: make the drafter with make drafter and --card_folder")
        told = json.loads(path.read_text(encoding="utf-8"))
        measured = read_measurements(card, description).values()
        runs = tuple(run for results in measured for run in results["runs"] if run["temperature"] == 0)
        return cls(description.pair, description.target, runs, told["strategies"], told["collected"])


def published(run: dict[str, Any]) -> str:
    """Name the strategy that was published: it is measured as the drafter."""
    names = {method["name"] for method in run["methods"]}
    return next(strategy.method for strategy in STRATEGIES.values() if strategy.method not in names)


def column(run: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Return the method that stands in a column, or `None` where it was not measured."""
    found = DRAFTER if name == published(run) else name
    return next((method for method in run["methods"] if method["name"] == found), None)


def best_single(run: dict[str, Any]) -> dict[str, Any]:
    """Return the fastest method that is one strategy alone."""
    single = [column(run, strategy.method) for name, strategy in STRATEGIES.items() if name != HYBRID]
    return max(filter(None, single), key=lambda method: method["speedup"]["value"])


def speedup_over(method: dict[str, Any], other: dict[str, Any]) -> Interval:
    """Compute how many times as fast as another method of its run one is."""
    return speedup(timings(method["prompts"]), timings(other["prompts"]))


def columns(measured: Sequence[Measured]) -> list[str]:
    """List prompt lookup and the strategies that any language has."""
    names = [PROMPT_LOOKUP, *(strategy.method for strategy in STRATEGIES.values())]
    return [name for name in names if any(column(run, name) for each in measured for run in each.runs)]


def _tasks(measured: Sequence[Measured]) -> list[str]:
    return list(dict.fromkeys(run["task"] for each in measured for run in each.runs))


def language_tables(measured: Sequence[Measured]) -> str:
    """Render speedups and acceptance of each task, and what each language costs."""
    names, parts = columns(measured), []
    for task in _tasks(measured):
        runs = [(each, run) for each in measured for run in each.runs if run["task"] == task]
        parts += [
            f"### Speedup: {task}",
            _speedups(runs, names),
            f"### Acceptance α: {task}",
            _acceptance(runs, names),
        ]
    parts += ["### What a language costs", _costs(measured), "### What a strategy takes", _sizes(measured)]
    return "\n\n".join(parts)


def _speedups(runs: Sequence[tuple[Measured, dict[str, Any]]], names: list[str]) -> str:
    header = [
        "answers in",
        "questions",
        "loops",
        *names,
        "published",
        "over the best single one",
        "over prompt lookup",
    ]
    rows = []
    for each, run in runs:
        drafter = find_method(run, DRAFTER)
        cells = [_speedup(column(run, name)) for name in names]
        over = [_over(drafter, best_single(run)), _over(drafter, column(run, PROMPT_LOOKUP))]
        loops = f"{find_method(run, PLAIN)['looping_share']:.0%}"
        rows.append([each.language, str(run["questions"]["count"]), loops, *cells, published(run), *over])
    return markdown_table(header, rows)


def _speedup(method: dict[str, Any] | None) -> str:
    return interval_text(Interval(**method["speedup"])) if method else _DASH


def _over(method: dict[str, Any], other: dict[str, Any] | None) -> str:
    if other is None or other is method:
        return _DASH
    return interval_text(speedup_over(method, other))


def _acceptance(runs: Sequence[tuple[Measured, dict[str, Any]]], names: list[str]) -> str:
    rows = []
    for each, run in runs:
        alphas = [(column(run, name) or {}).get("alpha") for name in names]
        rows.append([each.language, *(_DASH if alpha is None else f"{alpha:.2f}" for alpha in alphas)])
    return markdown_table(["answers in", *names], rows)


def _costs(measured: Sequence[Measured]) -> str:
    header = ["answers in", "tokens per character", "over English", "tokens per byte", "plain tokens/s"]
    header += [
        "plain characters/s",
        "published characters/s",
        "network's cost ratio",
        "answers",
        "in the language",
        "text, documents",
    ]
    rows = []
    for each in measured:
        run, fertility = each.runs[0], each.collected["text"]["fertility"]
        plain, network = find_method(run, PLAIN), column(run, STRATEGIES["both"].method)
        ratio = network.get("time_split", {}).get("cost_ratio")
        said = [fertility[key] for key in ("tokens_per_character", "tokens_per_character_over_english")]
        said += [fertility["tokens_per_byte"], plain["tokens_per_second"], plain["characters_per_second"]]
        said += [find_method(run, DRAFTER)["characters_per_second"], ratio]
        answers, text = (each.collected[rows]["train"] for rows in ("distill", "text"))
        counts = [str(answers["rows"]), _own_share(each, answers), str(text["rows"])]
        rows.append([each.language, *(_DASH if value is None else f"{value:.2f}" for value in said), *counts])
    return markdown_table(header, rows)


def _own_share(measured: Measured, answers: dict[str, Any]) -> str:
    """Compute the share of answers that were identified as being in the language that was asked for."""
    language, found = get_pair(measured.pair).target, answers["languages"]
    own = sum(found.get(code, 0) for code in (language.code, *language.aliases))
    return f"{own / sum(found.values()):.0%}"


def _sizes(measured: Sequence[Measured]) -> str:
    """Render a row for each strategy, with the smallest and the largest figure of all languages."""
    said = [each for one in measured for each in one.strategies.values()]
    rows = []
    for name in dict.fromkeys(each["method"] for each in said):
        own = [each for each in said if each["method"] == name]
        sizes, seconds = ([each[key] for each in own] for key in ("bytes", "finetune_seconds"))
        trained = _range(seconds, 0) if max(seconds) else "nothing is trained"
        rows.append([name, _range([size / 2**20 for size in sizes], 1), trained])
    return markdown_table(["strategy", "weights and tables, MiB", "finetuning, s"], rows)


def _range(values: Sequence[float], digits: int) -> str:
    smallest, largest = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return smallest if smallest == largest else f"{smallest}-{largest}"


def plot_languages(measured: Sequence[Measured], path: Path) -> None:
    """Draw a heat map of the speedups of each task: strategies by languages.

    Args:
        measured (`Sequence[Measured]`): One for each language.
        path (`Path`): Picture that is written.
    Source: after figures of arXiv 2605.30580, which computes speedups where these are timed
    """
    names, tasks = columns(measured), _tasks(measured)
    size = (max(1.5 + 0.95 * len(measured), 5.5), 0.6 + 2.9 * len(tasks))
    figure, axes = plt.subplots(len(tasks), 1, figsize=size, layout="constrained", squeeze=False)
    for axis, task in zip(axes[:, 0], tasks):
        runs = {each.language: run for each in measured for run in each.runs if run["task"] == task}
        values = np.full((len(names), len(runs)), np.nan)
        for place, run in enumerate(runs.values()):
            for row, name in enumerate(names):
                if (method := column(run, name)) is not None:
                    values[row, place] = method["speedup"]["value"]
                    mark = " *" if name == published(run) else ""
                    axis.text(place, row, f"{values[row, place]:.2f}{mark}", ha="center", va="center", fontsize=8)
        # Yellow is where nothing is gained and nothing lost.
        furthest = max(np.nanmax(np.abs(values - 1)), 0.1)
        colours = plt.get_cmap("RdYlBu").with_extremes(bad="lightgrey")
        axis.imshow(values, cmap=colours, vmin=1 - furthest, vmax=1 + furthest, aspect="auto", alpha=0.6)
        axis.set_xticks(range(len(runs)), list(runs), fontsize=8, rotation=30, ha="right")
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.set_title(f"{task}: speedup over plain decoding (* published)", fontsize=9)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)
