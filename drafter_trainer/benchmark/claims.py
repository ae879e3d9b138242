"""What arXiv 2605.30580 finds of drafters for small languages, each finding held against what was measured here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from drafter_trainer.benchmark.languages import Measured, column
from drafter_trainer.benchmark.methods import DRAFTER, PROMPT_LOOKUP
from drafter_trainer.benchmark.report import markdown_table
from drafter_trainer.benchmark.results import find_method
from drafter_trainer.benchmark.strategies import HYBRID, STRATEGIES

TASK, HELD_OUT_TASK = "translation", "story"
_CONFIRMED, _CONTRADICTED = 3 / 4, 1 / 4  # of the languages
_LEAST_LANGUAGES = 4  # fewer decide nothing
_TABLE, _ANSWERS, _TEXT = (STRATEGIES[name].method for name in ("table", "task", "text"))
_THEIRS = (_TABLE, _ANSWERS, _TEXT)  # the strategies that the paper compares
_LEAST_SHARE = 0.97  # of the best single strategy's speed


@dataclass(frozen=True)
class Claim:
    """Hold something that is true of a language, or not.

    Args:
        text (`str`): What is claimed.
        tasks (`tuple[str, ...]`): What it is claimed of.
        holds (callable): From a language's runs, in the order of `tasks`, whether it does.
    """

    text: str
    tasks: tuple[str, ...]
    holds: Callable[..., bool]


def _alpha(run: dict[str, Any], name: str) -> float:
    return column(run, name)["alpha"] or 0.0


def _speedup(run: dict[str, Any], name: str) -> float:
    return column(run, name)["speedup"]["value"]


def _fastest(run: dict[str, Any]) -> str:
    return max(_THEIRS, key=lambda name: _speedup(run, name))


def _single(run: dict[str, Any]) -> list[str]:
    return [each.method for name, each in STRATEGIES.items() if name != HYBRID and column(run, each.method)]


def _drafter(run: dict[str, Any]) -> float:
    return find_method(run, DRAFTER)["speedup"]["value"]


_PAPER = (
    Claim(
        "distilling the task accepts more there than finetuning on text",
        (TASK,),
        lambda run: _alpha(run, _ANSWERS) > _alpha(run, _TEXT),
    ),
    Claim(
        "what was distilled accepts less on the task that was held out",
        (TASK, HELD_OUT_TASK),
        lambda run, held_out: _alpha(held_out, _ANSWERS) < _alpha(run, _ANSWERS),
    ),
    Claim(
        "and does not make it faster than plain decoding",
        (HELD_OUT_TASK,),
        lambda run: _speedup(run, _ANSWERS) <= 1,
    ),
    Claim("a network of text alone is faster than plain decoding", (TASK,), lambda run: _speedup(run, _TEXT) > 1),
    Claim("the same", (HELD_OUT_TASK,), lambda run: _speedup(run, _TEXT) > 1),
    *(
        claim
        for task in (TASK, HELD_OUT_TASK)
        for claim in (
            Claim(
                "an n-gram table accepts less than both networks",
                (task,),
                lambda run: _alpha(run, _TABLE) < min(_alpha(run, _ANSWERS), _alpha(run, _TEXT)),
            ),
            Claim("it is the fastest of the three all the same", (task,), lambda run: _fastest(run) == _TABLE),
            Claim("it is faster than plain decoding", (task,), lambda run: _speedup(run, _TABLE) > 1),
        )
    ),
)
_OURS = tuple(
    claim
    for task in (TASK, HELD_OUT_TASK)
    for claim in (
        Claim("the published drafter is faster than plain decoding", (task,), lambda run: _drafter(run) > 1),
        Claim(
            "it is at most 3 % slower than the best single strategy",
            (task,),
            lambda run: _drafter(run) >= _LEAST_SHARE * max(_speedup(run, name) for name in _single(run)),
        ),
        Claim("it is faster than prompt lookup", (task,), lambda run: _drafter(run) > _speedup(run, PROMPT_LOOKUP)),
    )
)


def claims_tables(measured: Sequence[Measured]) -> str:
    """Render what the paper finds, and what this project aims at, with the languages in which each holds.

    Args:
        measured (`Sequence[Measured]`): One for each language; one without a task is left out of that task's claims.
    Source: Paudel et al., "Speculative Decoding Across Languages", arXiv 2605.30580
    """
    findings = _table("finding of arXiv 2605.30580", measured, _PAPER, _verdict)
    aims = _table("aim", measured, _OURS, lambda held, asked: "")
    return f"### The paper's findings\n\n{findings}\n\n### The published drafters\n\n{aims}"


def _table(
    header: str, measured: Sequence[Measured], claims: Sequence[Claim], judge: Callable[[int, int], str]
) -> str:
    rows = []
    for claim in claims:
        asked = {each.language: _runs(each, claim.tasks) for each in measured}
        asked = {language: runs for language, runs in asked.items() if runs}
        held = [language for language, runs in asked.items() if claim.holds(*runs)]
        others = [language for language in asked if language not in held]
        count = f"{len(held)} of {len(asked)}{judge(len(held), len(asked))}" if asked else "-"
        rows.append([claim.text, " to ".join(claim.tasks), count, ", ".join(others) or "-"])
    return markdown_table([header, "task", "holds in", "not in"], rows)


def _runs(measured: Measured, tasks: Sequence[str]) -> list[dict[str, Any]] | None:
    runs = {run["task"]: run for run in measured.runs}
    return [runs[task] for task in tasks] if runs.keys() >= set(tasks) else None


def _verdict(held: int, asked: int) -> str:
    share = held / asked
    if asked < _LEAST_LANGUAGES or _CONTRADICTED < share < _CONFIRMED:
        return ": not decidable here"
    return ": confirmed" if share >= _CONFIRMED else ": contradicted"
