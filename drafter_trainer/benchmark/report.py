"""Render results as tables for the terminal and for Markdown, from `results.json` alone."""

import statistics
from collections.abc import Sequence
from typing import Any

from drafter_trainer.benchmark.methods import DRAFTER, PROMPT_LOOKUP


def speedup_tables(results: dict[str, Any]) -> str:
    """Render a table for each run, with what it was measured on above it."""
    return "\n\n".join(f"{_title(results, run)}\n\n{_table(run)}" for run in results["runs"])


def overview_table(several: Sequence[dict[str, Any]]) -> str:
    """Render a row for each drafter, with its speedups over plain decoding, and one with their means.

    Prompt lookup is the one of the best length in the same run; several seeds count as their mean; what was not
    measured is a dash, and a mean is taken where everything was.

    Args:
        several (`Sequence[dict]`): Results of several drafters.
    """
    header = ["pair", "prompt lookup", f"{DRAFTER} without its network", DRAFTER, "over prompt lookup"]
    header += ["network's part", f"{DRAFTER}, T = 1"]
    columns = [_overview(results) for results in several]
    means = [None if None in column else statistics.mean(column) for column in zip(*columns)]
    names = [results["runs"][0]["pair"] for results in several]
    rows = [[name, *map(_ratio, values)] for name, values in zip([*names, "mean"], [*columns, means])]
    return markdown_table(header, rows)


def _overview(results: dict[str, Any]) -> list[float | None]:
    greedy = [_speedups(run) for run in results["runs"] if run["temperature"] == 0]
    sampled = [_speedups(run)[DRAFTER] for run in results["runs"] if run["temperature"] == 1]
    lookup = network = None
    speedups = greedy[0] if greedy else {}
    drafter, rest = speedups.get(DRAFTER), speedups.get(f"{DRAFTER} without network")
    best = max((value for name, value in speedups.items() if name.startswith(PROMPT_LOOKUP)), default=None)
    if drafter is not None and best is not None:
        lookup = drafter / best
    if drafter is not None and rest is not None:
        network = drafter / rest
    return [best, rest, drafter, lookup, network, statistics.mean(sampled) if sampled else None]


def _speedups(run: dict[str, Any]) -> dict[str, float]:
    return {method["name"]: method["speedup"]["value"] for method in run["methods"]}


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


def device_line(results: dict[str, Any]) -> str:
    """Say on one line what was measured on."""
    provenance = results["provenance"]
    device, versions = provenance["device"], provenance["versions"]
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers"))
    return f"{device['name']} ({device['runtime']}), {libraries}"


def _title(results: dict[str, Any], run: dict[str, Any]) -> str:
    sampling = (
        "greedy" if run["temperature"] == 0 else f"T = {run['temperature']:g}, seed {run['seed']}, no top-k/top-p"
    )
    looping = next(method["looping_share"] for method in run["methods"])
    return (
        f"{run['pair']}, {run['task']}, {run['questions']['count']} questions of {run['questions']['source']}, "
        f"{sampling}, {run['dtype']}, at most {run['max_new_tokens']} new tokens, batch 1; {looping:.0%} of plain "
        f"outputs loop. {device_line(results)}"
    )


def _table(run: dict[str, Any]) -> str:
    header = ["method", "draft", "speedup (95 %)", "without loops", "tokens/s", "characters/s", "tokens per pass"]
    header += ["α", "slower prompts", "equal to plain", "ratio of the paper's script"]
    rows = [_row(method) for method in run["methods"]]
    return markdown_table(header, rows)


def _row(method: dict[str, Any]) -> list[str]:
    lossless = method["losslessness"]
    return [
        method["name"],
        str(method["draft_length"] or "-"),
        _interval(method["speedup"]),
        f"{method['speedup_without_loops']['value']:.2f}x" if method["speedup_without_loops"] else "-",
        f"{method['tokens_per_second']:.1f}",
        f"{method['characters_per_second']:.1f}",
        f"{method['mean_accepted_tokens']:.2f}",
        "-" if method["alpha"] is None else f"{method['alpha']:.2f}",
        f"{method['slower_share']:.0%}",
        f"{lossless['equal']}/{lossless['prompts']}" if lossless else "lossy" if method.get("lossy") else "sampled",
        f"{method['paper_script_ratio']:.2f}x",
    ]


def _interval(interval: dict[str, float]) -> str:
    return f"{interval['value']:.2f}x ({interval['low']:.2f}-{interval['high']:.2f})"


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Render a Markdown table whose columns are as wide as their widest cell, so that it reads well as text too."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths)] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)
