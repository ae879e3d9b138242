"""Write the committed results into README.md and docs/serving.md, the schema into docs/results_schema.md, and api.md.

    make readme

README.md shows the drafters of hub_cards whose target does its task. T = 1 comes from a card's sampling/results.json
if it was measured separately. docs/serving.md shows the results in a card's engines/.
"""

import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.api import api_page
from drafter_trainer.benchmark.quality import is_showcase
from drafter_trainer.benchmark.report import markdown_table, speedup_table, title
from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.hub.card_folder import read_measurements
from drafter_trainer.results import DRAFTER, PROMPT_LOOKUP, SCHEMA, MeasuredRun, Results

_ENGINE_COLUMNS = ["method", "draft", "output tokens/s", "over plain", "tokens per pass", "accepted", "equal to plain"]
_COLUMNS = ["method", "speedup (95 %)", "after the first token", "tokens per pass", "slower prompts", "equal to plain"]


def main() -> None:
    folders = [path.parent for path in sorted(Path("hub_cards").glob("*/results.json"))]
    measured = [[*read_measurements(card, DrafterDescription.read(card)).values()] for card in folders]
    cards = [merge_runs(card, results) for card, results in zip(folders, measured)]
    in_engines = [each for results in measured for each in results if is_of_engine(each)]
    shown = [results for results in cards if is_showcase(results)]
    tables = [f"{drafter_tables(each)}\n\nCommand: `{each['provenance']['command']}`" for each in shown]
    put(Path("README.md"), "drafters", "\n\n".join([overview_table(shown)] * (len(shown) > 1) + tables))
    tables = [
        f"{run_tables(each, _ENGINE_COLUMNS)}\n\nCommand: `{each['provenance']['command']}`" for each in in_engines
    ]
    put(Path("docs/serving.md"), "engines", "\n\n".join(tables) or "Nothing has been measured yet.")
    put(Path("docs/results_schema.md"), "schema", schema_tables(SCHEMA))
    Path("docs/api.md").write_text(api_page(), encoding="utf-8")


def overview_table(several: Sequence[dict[str, Any]]) -> str:
    """Render a row for each drafter, with its speedups over plain decoding, and a row with their means.

    Prompt lookup has its best length in the same run. Several seeds count as their mean. A figure that was not
    measured is a dash; means are computed only over complete columns.
    """
    header = ["pair", "prompt lookup", f"{DRAFTER} without its network", DRAFTER, "over prompt lookup"]
    header += ["network's part", f"{DRAFTER}, T = 1"]
    columns = [_overview(results) for results in several]
    means = [None if None in column else statistics.mean(column) for column in zip(*columns)]
    names = [results["runs"][0]["pair"] for results in several]
    rows = [[name, *map(_ratio, values)] for name, values in zip([*names, "mean"], [*columns, means])]
    return markdown_table(header, rows)


def _overview(results: Results) -> list[float | None]:
    runs = [run for run in results["runs"] if run.get("task") == results["runs"][0].get("task")]
    greedy = [_speedups(run) for run in runs if run["temperature"] == 0]
    sampled = [_speedups(run)[DRAFTER] for run in runs if run["temperature"] == 1]
    lookup = network = None
    speedups = greedy[0] if greedy else {}
    drafter, rest = speedups.get(DRAFTER), speedups.get(f"{DRAFTER} without network")
    best = max((value for name, value in speedups.items() if name.startswith(PROMPT_LOOKUP)), default=None)
    if drafter is not None and best is not None:
        lookup = drafter / best
    if drafter is not None and rest is not None:
        network = drafter / rest
    return [best, rest, drafter, lookup, network, statistics.mean(sampled) if sampled else None]


def _speedups(run: MeasuredRun) -> dict[str, float]:
    return {method["name"]: method["speedup"]["value"] for method in run["methods"]}


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


def is_of_engine(results: dict[str, Any]) -> bool:
    """Return whether results were measured in vLLM or llama.cpp."""
    return "engine" in results["runs"][0]


def merge_runs(card: Path, measured: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge all runs of a drafter in transformers into one results object."""
    measured = [results for results in measured if not is_of_engine(results)]
    if not measured:
        sys.exit(f"error: {card} has no results of the current version of its drafter: measure it again")
    return measured[0] | {"runs": [run for results in measured for run in results["runs"]]}


def run_tables(results: dict[str, Any], columns: list[str]) -> str:
    """Render a table for each run with some of its columns."""
    parts = []
    for run in results["runs"]:
        header, rows = speedup_table(run)
        places = [header.index(name) for name in columns]
        parts += [title(results, run), markdown_table(columns, [[row[place] for place in places] for row in rows])]
    return "\n\n".join(parts)


def drafter_tables(results: dict[str, Any]) -> str:
    """Render the speedups of the greedy runs, and the drafter's speedups at T = 1."""
    greedy = [run for run in results["runs"] if run["temperature"] == 0]
    parts, sampled = [run_tables(results | {"runs": greedy}, _COLUMNS)], []
    for run in results["runs"]:
        if run["temperature"] > 0:
            header, rows = speedup_table(run)
            sampled.append(rows[-1][header.index("speedup (95 %)")])
    if sampled:
        parts.append(f"The drafter at T = 1, one figure per seed: {', '.join(sampled)}.")
    return "\n\n".join(parts)


def put(path: Path, name: str, tables: str) -> None:
    """Replace the text between two marks of a page."""
    begin, end = f"<!-- {name}: make readme -->", f"<!-- end of {name} -->"
    before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    if not after:
        sys.exit(f"error: {path} lacks the marks {begin} and {end}: put them back")
    path.write_text(f"{before}{begin}\n{tables}\n{end}{after}", encoding="utf-8")


def schema_tables(schema: dict[str, Any]) -> str:
    """Render a JSON Schema as tables, one for each object, with the type of each key and whether it is required."""
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
    """Iterate over the keys of an object and of the objects inside it."""
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


if __name__ == "__main__":
    main()
