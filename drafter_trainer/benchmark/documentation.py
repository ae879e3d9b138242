"""What docs/ shows: published numbers beside this project's, and the schema of `results.json`, as tables."""

import re
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from drafter_trainer.benchmark.report import device_line, interval_text, markdown_table
from drafter_trainer.benchmark.statistics import Interval
from drafter_trainer.results import DRAFTER, PLAIN, find_method

_UNMEASURED = "-"
_LENGTH = re.compile(r", \d+$")  # "prompt lookup, 10" is prompt lookup with drafts of 10 tokens


def paper_tables(paper: dict[str, Any], several: Sequence[dict[str, Any]]) -> str:
    """Render a paper's table with this project's numbers below each of its rows: greedy, then at T = 1.

    Greedy numbers of this project have their bootstrap interval; those at T = 1 are means over seeds, with the lowest
    and the highest. A method with several draft lengths counts at its best one. What was not measured is a dash.

    Args:
        paper (`dict`): As `docs/paper_table1.json` holds it: `source`, `target`, `drafter`, `device`, `pairs`, and
            `rows` of `method`, `counterpart` (this project's name for it, or `None`), `greedy` and `sampled` cells.
        several (`Sequence[dict]`): This project's results, of one drafter each.
    """
    runs = [run for results in several for run in results["runs"]]
    header = ["where", "method", *paper["pairs"], "mean"]
    parts = [
        f"*Paper*: {paper['source']}: target {paper['target']}, drafter {paper['drafter']}, {paper['device']}; "
        "± as printed there.",
        f"*Here*: {_measured(several)}.",
    ]
    for name, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        chosen = [run for run in runs if run["temperature"] == temperature]
        rows = []
        for row in paper["rows"]:
            rows.append(["paper", row["method"], *(cell or _UNMEASURED for cell in row[name])])
            if row["counterpart"]:
                rows.append(["here", *_row(row["counterpart"], chosen, paper["pairs"])])
        told = {PLAIN, *(row["counterpart"] for row in paper["rows"])}
        names = {_LENGTH.sub("", method["name"]): None for run in chosen for method in run["methods"]}  # ordered
        rows += [["here", *_row(other, chosen, paper["pairs"])] for other in names if other not in told]
        rows.append(["here", *_paper_ratios(chosen, paper["pairs"])])
        title = "Greedy" if temperature == 0 else f"T = {temperature:g}"
        parts.append(f"### {title}\n\n{markdown_table(header, rows)}")
    return "\n\n".join(parts)


def _measured(several: Sequence[dict[str, Any]]) -> str:
    """Say what this project's numbers were taken on; several machines or settings are all named."""
    targets = sorted({results["provenance"]["target"] for results in several})
    devices = sorted({device_line(results) for results in several})
    runs = [run for results in several for run in results["runs"]]
    dtypes = sorted({run["dtype"] for run in runs})
    greedy = sorted({run["questions"]["count"] for run in runs if run["temperature"] == 0})
    sampled = sorted({run["questions"]["count"] for run in runs if run["temperature"] > 0})
    seeds = len({run["seed"] for run in runs if run["temperature"] > 0})
    looping = [find_method(run, PLAIN)["looping_share"] for run in runs]
    counts = " or ".join(map(str, greedy)) + " questions greedy"
    if sampled:
        counts += f", {' or '.join(map(str, sampled))} questions and {seeds} seeds at T = 1"
    loops = f"of plain outputs {min(looping):.0%} to {max(looping):.0%} end in a loop, by run"
    return f"target {', '.join(targets)}, {', '.join(dtypes)}, batch size 1, {'; '.join(devices)}; {counts}; {loops}"


def _row(name: str, runs: Sequence[dict[str, Any]], pairs: Sequence[str]) -> list[str]:
    cells, values = [], []
    for pair in pairs:
        # One run greedily; at T = 1 one for each seed.
        found = [best for run in runs if run["pair"] == pair and (best := _best(run, name))]
        if not found:
            cells.append(_UNMEASURED)
            continue
        values.append(statistics.mean(speedup.value for speedup in found))
        single = [speedup.value for speedup in found]
        cells.append(interval_text(found[0] if len(found) == 1 else Interval(values[-1], min(single), max(single))))
    mean = f"{statistics.mean(values):.2f}x" if len(values) == len(pairs) else _UNMEASURED
    return [name, *cells, mean]


def _best(run: dict[str, Any], name: str) -> Interval | None:
    several = [Interval(**method["speedup"]) for method in run["methods"] if _LENGTH.sub("", method["name"]) == name]
    return max(several, key=lambda speedup: speedup.value, default=None)


def _paper_ratios(runs: Sequence[dict[str, Any]], pairs: Sequence[str]) -> list[str]:
    values = []
    for pair in pairs:
        ratios = [
            method["paper_script_ratio"]
            for run in runs
            if run["pair"] == pair
            for method in run["methods"]
            if method["name"] == DRAFTER
        ]
        values.append(statistics.mean(ratios) if ratios else None)
    mean = None if None in values else statistics.mean(values)
    cells = [_UNMEASURED if value is None else f"{value:.2f}x" for value in (*values, mean)]
    return [f"{DRAFTER}, by the paper's script", *cells]


def forecast_text(prediction: dict[str, Any], results: dict[str, Any]) -> str:
    """Hold the forecast that `predict.json` makes of a drafter against what the benchmark measured, greedily.

    Args:
        prediction (`dict`): As `recipes/predict.py` wrote it for a trained drafter.
        results (`dict`): Of the same drafter.
    """
    forecast, overhead = prediction["forecast"], prediction["overhead"]
    run = next(run for run in results["runs"] if run["temperature"] == 0)
    measured = find_method(run, DRAFTER)
    this_loop, stock_loop = (f"{overhead[name]:.2f} ms" for name in ("this_loop", "stock_loop"))
    return (
        f"{run['pair']}, {forecast['answers']} answers ({forecast['of']}): {forecast['speedup']:.2f}x was forecast, "
        f"with {forecast['tokens_per_pass']:.2f} tokens a pass; the benchmark measured "
        f"{measured['speedup']['value']:.2f}x, with {measured['mean_accepted_tokens']:.2f} "
        f"({run['questions']['count']} questions of {run['questions']['source']}). Beside the network's forwards the "
        f"loop takes {this_loop} a drafted token, transformers' own {stock_loop}."
    )


def schema_tables(schema: dict[str, Any]) -> str:
    """Render a JSON Schema as tables: one for each object, with each key, its type, and whether it may be missing."""
    parts = [_object_tables("The file", schema)]
    parts += [
        _object_tables(f"`{name}`", definition)
        for name, definition in schema["$defs"].items()
        if "properties" in definition
    ]
    return "\n\n".join(parts)


def _object_tables(name: str, definition: dict[str, Any]) -> str:
    rows = [
        [f"`{key}`", _type(value), "yes" if required else "no", value.get("description", "")]
        for key, value, required in _keys(definition)
    ]
    return (
        f"## {name}\n\n{definition['description']}.\n\n{markdown_table(['key', 'type', 'required', 'meaning'], rows)}"
    )


def _keys(definition: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Go through an object's keys, and through those of the objects written within it."""
    for key, value in definition["properties"].items():
        yield prefix + key, value, key in definition.get("required", ())
        for inner in value.get("anyOf", [value]):
            if "properties" in inner:
                yield from _keys(inner, f"{prefix}{key}.")
            elif "properties" in inner.get("items", {}):
                yield from _keys(inner["items"], f"{prefix}{key}[].")


def _type(value: dict[str, Any]) -> str:
    if "$ref" in value:
        return value["$ref"].rpartition("/")[2]
    if "anyOf" in value:
        return " or ".join(map(_type, value["anyOf"]))
    if "const" in value:
        return str(value["const"])
    return f"list of {_type(value['items'])}" if value["type"] == "array" else value["type"]
