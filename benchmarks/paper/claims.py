"""The findings of arXiv 2605.30580 on drafters for low-resource languages, compared with this project's measurements.

    make drafter LANG=oci TEXT=file:occitan.txt DRAFTER_OPTIONS="--card_folder cards"   # for each language
    python -m benchmarks.paper.claims cards/* --out runs/languages

Writes languages.md and a heat map for each target. A finding is counted in the languages in which the target does its
task; the tables show all languages.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.paper.languages import (
    Measured,
    best_single,
    column,
    language_tables,
    plot_languages,
    speedup_over,
)
from drafter_trainer.benchmark.report import markdown_table
from drafter_trainer.benchmark.statistics import Interval
from drafter_trainer.benchmark.strategies import STRATEGIES
from drafter_trainer.benchmark.target_quality import beyond_limits
from drafter_trainer.results import DRAFTER, PLAIN, PROMPT_LOOKUP, find_method

TASK, HELD_OUT_TASK = "translation", "story"
_CONFIRMED, _CONTRADICTED = 3 / 4, 1 / 4  # of the languages
_LEAST_LANGUAGES = 4  # fewer decide nothing
_TABLE, _ANSWERS, _TEXT = (STRATEGIES[name].method for name in ("table", "task", "text"))
_THEIRS = (_TABLE, _ANSWERS, _TEXT)  # the strategies that the paper compares


@dataclass(frozen=True)
class Finding:
    """A statement that holds in a language or does not.

    Args:
        text (`str`): The statement.
        tasks (`tuple[str, ...]`): Names of the tasks that it compares.
        holds (callable): Takes a language's runs, in the order of `tasks`; returns whether the statement holds, or
            `None` where a compared drafter drafted nothing.
    """

    text: str
    tasks: tuple[str, ...]
    holds: Callable[..., bool | None]


@dataclass(frozen=True)
class Aim:
    """A lower bound of the published drafter's speed on each task.

    Args:
        text (`str`): The aim.
        ratio (callable): Takes a run; returns the drafter's speed over that of another method.
        least (`float`): Exclusive lower bound of the ratio.
    """

    text: str
    ratio: Callable[[dict[str, Any]], Interval]
    least: float = 1


def _accepts_less(run: dict[str, Any], name: str, other_run: dict[str, Any], other: str) -> bool | None:
    alphas = [column(run, name)["alpha"], column(other_run, other)["alpha"]]
    return None if None in alphas else alphas[0] < alphas[1]


def _table_accepts_less(run: dict[str, Any]) -> bool | None:
    less = [_accepts_less(run, _TABLE, run, network) for network in (_ANSWERS, _TEXT)]
    return None if None in less else all(less)


def _speedup(run: dict[str, Any], name: str) -> float:
    return column(run, name)["speedup"]["value"]


def _fastest(run: dict[str, Any]) -> str:
    return max(_THEIRS, key=lambda name: _speedup(run, name))


def _drafter_over(run: dict[str, Any], name: str) -> Interval:
    return speedup_over(find_method(run, DRAFTER), column(run, name))


_FINDINGS = (
    Finding(
        "distilling the task accepts more there than finetuning on text",
        (TASK,),
        lambda run: _accepts_less(run, _TEXT, run, _ANSWERS),
    ),
    Finding(
        "what was distilled accepts less on the task that was held out",
        (TASK, HELD_OUT_TASK),
        lambda run, held_out: _accepts_less(held_out, _ANSWERS, run, _ANSWERS),
    ),
    Finding(
        "and does not make it faster than plain decoding",
        (HELD_OUT_TASK,),
        lambda run: _speedup(run, _ANSWERS) <= 1,
    ),
    Finding("a network of text alone is faster than plain decoding", (TASK,), lambda run: _speedup(run, _TEXT) > 1),
    Finding("the same", (HELD_OUT_TASK,), lambda run: _speedup(run, _TEXT) > 1),
    *(
        finding
        for task in (TASK, HELD_OUT_TASK)
        for finding in (
            Finding("an n-gram table accepts less than both networks", (task,), _table_accepts_less),
            Finding("it is the fastest of the three all the same", (task,), lambda run: _fastest(run) == _TABLE),
            Finding("it is faster than plain decoding", (task,), lambda run: _speedup(run, _TABLE) > 1),
        )
    ),
)
_AIMS = (
    Aim("the published drafter is faster than plain decoding", lambda run: _drafter_over(run, PLAIN)),
    Aim(
        "it is at most 3 % slower than the best single strategy",
        lambda run: speedup_over(find_method(run, DRAFTER), best_single(run)),
        0.97,
    ),
    Aim("it is faster than prompt lookup", lambda run: _drafter_over(run, PROMPT_LOOKUP)),
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cards", nargs="+", type=Path, help="Folders of cards, one for each language and target")
    parser.add_argument("--out", type=Path, required=True, help="Folder of languages.md and the heat maps")
    options = parser.parse_args(argv)
    measured = [Measured.read(card) for card in options.cards]
    options.out.mkdir(parents=True, exist_ok=True)
    sections = []
    for target in dict.fromkeys(each.target for each in measured):
        sections.append(_target_section(target, [each for each in measured if each.target == target], options.out))
    (options.out / "languages.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    print("\n\n".join(sections))


def _target_section(target: str, languages: Sequence[Measured], out: Path) -> str:
    name = target.rsplit("/", 1)[-1]
    picture = f"languages-{name.lower()}.png"
    plot_languages(languages, out / picture)
    dtypes = sorted({run["dtype"] for each in languages for run in each.runs})
    able = [each for each in languages if not any(map(beyond_limits, each.runs))]
    unable = ", ".join(each.language for each in languages if each not in able)
    parts = [f"## {name}, {' and '.join(dtypes)}", f"![Speedup by strategy and language]({picture})"]
    if unable:
        parts.append(f"The target does not do its task in {unable}: the findings leave these languages out.")
    return "\n\n".join([*parts, claims_tables(able), language_tables(languages)])


def claims_tables(measured: Sequence[Measured]) -> str:
    """Render the paper's findings, and this project's aims, with the languages in which each holds.

    Args:
        measured (`Sequence[Measured]`): One for each language; one without a task is left out of that task's claims.
    Source: Paudel et al., "Speculative Decoding Across Languages", arXiv 2605.30580
    """
    findings = [_finding_row(finding, measured) for finding in _FINDINGS]
    aims = [_aim_row(aim, task, measured) for task in (TASK, HELD_OUT_TASK) for aim in _AIMS]
    return "\n\n".join(
        (
            "### The paper's findings",
            markdown_table(["finding of arXiv 2605.30580", "task", "holds in", "not in"], findings),
            "### The published drafters",
            markdown_table(["aim", "task", "holds in", "beyond noise in", "not in"], aims),
        )
    )


def _finding_row(finding: Finding, measured: Sequence[Measured]) -> list[str]:
    found = {each.language: finding.holds(*runs) for each in measured if (runs := _runs(each, finding.tasks))}
    others = [language for language, holds in found.items() if holds is False]
    asked = sum(holds is not None for holds in found.values())
    count = f"{asked - len(others)} of {asked}: {_verdict(asked - len(others), asked)}" if asked else "-"
    return [finding.text, " to ".join(finding.tasks), count, ", ".join(others) or "-"]


def _aim_row(aim: Aim, task: str, measured: Sequence[Measured]) -> list[str]:
    ratios = {each.language: aim.ratio(*runs) for each in measured if (runs := _runs(each, (task,)))}
    others = [language for language, ratio in ratios.items() if ratio.value <= aim.least]
    sure = sum(ratio.low > aim.least for ratio in ratios.values())
    counts = [f"{count} of {len(ratios)}" if ratios else "-" for count in (len(ratios) - len(others), sure)]
    return [aim.text, task, *counts, ", ".join(others) or "-"]


def _runs(measured: Measured, tasks: Sequence[str]) -> list[dict[str, Any]] | None:
    runs = {run["task"]: run for run in measured.runs}
    return [runs[task] for task in tasks] if runs.keys() >= set(tasks) else None


def _verdict(held: int, asked: int) -> str:
    share = held / asked
    if asked < _LEAST_LANGUAGES or _CONTRADICTED < share < _CONFIRMED:
        return "not decidable here"
    return "confirmed" if share >= _CONFIRMED else "contradicted"


if __name__ == "__main__":
    main()
