"""A page that compares all measured drafters."""

import math
import statistics
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from drafter_trainer.benchmark.page import render_html
from drafter_trainer.benchmark.quality import is_showcase
from drafter_trainer.benchmark.report import interval_text, title
from drafter_trainer.drafters.description import FILE_NAME, DrafterDescription
from drafter_trainer.errors import InputError
from drafter_trainer.hub.card import best_lookup, mean_speedup, pair_text, usage
from drafter_trainer.hub.card_folder import read_measurements
from drafter_trainer.languages import get_pair
from drafter_trainer.results import DRAFTER, PLAIN, MeasuredRun, Results, batch_text, find_method


class MeasuredDrafter(NamedTuple):
    """A drafter of the gallery, with its results; the main results are first."""

    description: DrafterDescription
    results: list[Results]


def read_gallery(folder: Path) -> list[MeasuredDrafter]:
    """Read all drafters with results from the subfolders of a folder."""
    gallery = []
    for place in sorted(path.parent for path in folder.glob(f"*/{FILE_NAME}")):
        description = DrafterDescription.read(place)
        if measurements := read_measurements(place, description):
            gallery.append(MeasuredDrafter(description, [*measurements.values()]))
    if not gallery:
        raise InputError(f"{folder} has no results of a drafter: publish a measured drafter with card_folder")
    return gallery


def render_gallery(gallery: Sequence[MeasuredDrafter]) -> str:
    """Render the page.

    Returns:
        `str`: HTML that loads nothing else. Names from the results are escaped.
    """
    settings = [runs for _, several in gallery for results in several for runs in _settings(results)]
    scale = math.ceil(max(mean_speedup(runs, name).high for runs in settings for name in _compared(runs)))
    drafters = [_drafter(drafter, scale) for drafter in gallery]
    drafters.sort(key=lambda drafter: not drafter["showcase"])
    template = resources.files("drafter_trainer.hub") / "gallery_template.html"
    return render_html(template, drafters=drafters, own=DRAFTER, scale=scale)


def _drafter(drafter: MeasuredDrafter, scale: int) -> dict[str, Any]:
    description, several = drafter
    provenance = several[0]["provenance"]
    return {
        "name": description.name,
        "target": provenance["target"].partition("@")[0],
        "pair": pair_text(get_pair(several[0]["runs"][0]["pair"])),
        "showcase": all(map(is_showcase, several)),
        "settings": [_setting(results, runs, scale) for results in several for runs in _settings(results)],
        "commands": [results["provenance"]["command"] for results in several],
        "usage": usage(description, description.name),
    }


def _settings(results: Results) -> list[list[MeasuredRun]]:
    """Group the runs that differ in their seeds only."""
    settings: dict[tuple[Any, ...], list[MeasuredRun]] = {}
    for run in results["runs"]:
        settings.setdefault((run["task"], run["temperature"], batch_text(run)), []).append(run)
    return list(settings.values())


def _compared(runs: Sequence[MeasuredRun]) -> list[str]:
    """Return the names of the compared methods: plain decoding, the best prompt lookup, and the drafter."""
    return [name for name in (PLAIN, best_lookup(runs), DRAFTER) if name]


def _setting(results: Results, runs: list[MeasuredRun], scale: int) -> dict[str, Any]:
    run, speedups, seeds = runs[0], {name: mean_speedup(runs, name) for name in _compared(runs)}, len(runs)
    sampling = "greedy" if run["temperature"] == 0 else f"T = {run['temperature']:g}"
    served = f", {batch_text(run)}" if "engine" in run else ""
    percent = 100 / scale  # of the bars' width
    return {
        "name": f"{run['task']}, {sampling}{served}",
        "interval": f"mean, lowest and highest of {seeds} seeds" if seeds > 1 else "95 % interval over questions",
        "measured": [title(results, run) for run in runs],
        "bars": [
            {"name": name, "text": interval_text(speedup)}
            | {key: round(percent * value, 2) for key, value in vars(speedup).items()}
            for name, speedup in speedups.items()
        ],
        "facts": _facts([find_method(run, DRAFTER) for run in runs]),
    }


def _facts(drafter: list[dict[str, Any]]) -> dict[str, str]:
    """Return the drafter's figures apart from its speed, as means over the seeds."""

    def mean(key: str) -> float:
        return statistics.mean(method[key] for method in drafter)

    facts = {"tokens per pass": f"{mean('mean_accepted_tokens'):.2f}"}
    if all(method["alpha"] is not None for method in drafter):
        facts["α"] = f"{mean('alpha'):.2f}"
        facts["drafted tokens accepted"] = f"{mean('acceptance_rate'):.0%}"
    facts["slower questions"] = f"{mean('slower_share'):.0%}"
    if all(method["losslessness"] for method in drafter):
        equal, prompts = (sum(method["losslessness"][key] for method in drafter) for key in ("equal", "prompts"))
        facts["outputs equal to plain decoding's"] = f"{equal}/{prompts}"
    return facts
