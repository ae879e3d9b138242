"""All measured drafters on one page, to compare and to choose from."""

import math
import statistics
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from drafter_trainer.benchmark.page import render_html
from drafter_trainer.benchmark.quality import is_showcase
from drafter_trainer.benchmark.report import interval_text, title
from drafter_trainer.benchmark.statistics import Interval
from drafter_trainer.drafters.description import FILE_NAME, DrafterDescription
from drafter_trainer.errors import InputError
from drafter_trainer.hub.card import usage
from drafter_trainer.hub.card_folder import read_measurements
from drafter_trainer.languages import get_pair, translation_prompt
from drafter_trainer.results import DRAFTER, PLAIN, PROMPT_LOOKUP, Results, find_method, say_setting


def read_gallery(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Read the results of all drafters that have some.

    Returns:
        `dict[str, list[dict]]`, by the name of a drafter's folder its results, the benchmark's own first.
    """
    gallery = {}
    for place in sorted(path.parent for path in folder.glob(f"*/{FILE_NAME}")):
        measurements = read_measurements(place, DrafterDescription.read(place))
        if measurements:
            gallery[place.name] = [*measurements.values()]
    if not gallery:
        raise InputError(f"{folder} has no results of a drafter: publish a measured one with a card_folder")
    return gallery


def render_gallery(gallery: dict[str, list[dict[str, Any]]]) -> str:
    """Render the page.

    Returns:
        `str`, HTML that loads nothing from anywhere. Names from the results are escaped.
    """
    everything = (results for several in gallery.values() for results in several)
    settings = (runs for results in everything for runs in _settings(results["runs"]))
    scale = math.ceil(max(_speedup(runs, name).high for runs in settings for name in _shown(runs)))
    drafters = [_drafter(name, several, scale) for name, several in gallery.items()]
    drafters.sort(key=lambda drafter: not drafter["showcase"])
    return render_html(
        resources.files("drafter_trainer.hub") / "gallery_template.html",
        drafters=drafters,
        own=DRAFTER,
        scale=scale,
    )


def _drafter(anchor: str, several: list[dict[str, Any]], scale: int) -> dict[str, Any]:
    target = several[0]["provenance"]["target"].partition("@")[0]
    pair = get_pair(several[0]["runs"][0]["pair"])
    settings = [_setting(results, runs, scale) for results in several for runs in _settings(results["runs"])]
    return {
        "name": several[0]["provenance"]["drafter"],
        "anchor": anchor,
        "target": target,
        "pair": f"{pair.source.name} to {pair.target.name}",
        "showcase": all(map(is_showcase, several)),
        "settings": settings,
        "commands": [results["provenance"]["command"] for results in several],
        "usage": usage(target, several[0]["provenance"]["drafter"], translation_prompt(pair, pair.probes[0])),
    }


def _settings(runs: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Put the runs of one task, temperature and engine together, which differ in their seeds."""
    settings: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in runs:
        engine = run.get("engine", {})
        key = (run["task"], run["temperature"], engine.get("name"), engine.get("requests_at_once"))
        settings.setdefault(key, []).append(run)
    return list(settings.values())


def _shown(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Name the methods that are compared: plain decoding, prompt lookup at its best length, the drafter."""
    names = [method["name"] for method in runs[0]["methods"]]
    lookups = [name for name in names if name.startswith(PROMPT_LOOKUP)]
    best = [max(lookups, key=lambda name: _speedup(runs, name).value)] if lookups else []
    return [PLAIN, *best, DRAFTER]


def _speedup(runs: Sequence[dict[str, Any]], name: str) -> Interval:
    """Take a method's speedup with its bootstrap interval; of several seeds the mean, with the lowest and highest."""
    found = [Interval(**find_method(run, name)["speedup"]) for run in runs]
    if len(found) == 1:
        return found[0]
    values = [speedup.value for speedup in found]
    return Interval(statistics.mean(values), min(values), max(values))


def _setting(results: Results, runs: list[dict[str, Any]], scale: int) -> dict[str, Any]:
    run, speedups = runs[0], {name: _speedup(runs, name) for name in _shown(runs)}
    bars = []
    for name, speedup in speedups.items():
        width, low, high = (round(100 * figure / scale, 2) for figure in (speedup.value, speedup.low, speedup.high))
        # In per cent of the page's scale: the bar's width, and where its interval begins and ends.
        bars.append({"name": name, "text": interval_text(speedup), "width": width, "low": low, "high": high})
    sampling = "greedy" if run["temperature"] == 0 else f"T = {run['temperature']:g}"
    served = f", {say_setting(run)}" if "engine" in run else ""
    seeds = ", ".join(str(run["seed"]) for run in runs)
    lookups = [bar["text"] for bar in bars if bar["name"].startswith(PROMPT_LOOKUP)]
    return {
        "name": f"{run['task']}, {sampling}{served}",
        "interval": f"lowest and highest of the seeds {seeds}" if len(runs) > 1 else "95 % interval over questions",
        "measured": [title(results, run) for run in runs],
        "bars": bars,
        "lookup": lookups[0] if lookups else "-",
        "own": interval_text(speedups[DRAFTER]),
        "facts": _facts([find_method(run, DRAFTER) for run in runs]),
    }


def _facts(drafter: list[dict[str, Any]]) -> dict[str, str]:
    """List what the drafter did beside its speed, as means over the seeds."""

    def mean(key: str) -> float:
        return statistics.mean(method[key] for method in drafter)

    facts = {"tokens per pass": f"{mean('mean_accepted_tokens'):.2f}"}
    if all(method["alpha"] is not None for method in drafter):
        facts["α"] = f"{mean('alpha'):.2f}"
        facts["drafted tokens accepted"] = f"{mean('acceptance_rate'):.0%}"
    facts["questions that got slower"] = f"{mean('slower_share'):.0%}"
    if all(method["losslessness"] for method in drafter):
        equal, prompts = (sum(method["losslessness"][key] for method in drafter) for key in ("equal", "prompts"))
        facts["answers equal to plain decoding's"] = f"{equal}/{prompts}"
    return facts
