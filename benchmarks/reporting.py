"""Print the figures of a measurement as a table, and write them to results/<name>.json with their provenance."""

import json
from pathlib import Path
from typing import Any

from drafter_trainer.provenance import collect_provenance

RESULTS = Path(__file__).parent / "results"


def report(name: str, figures: list[dict[str, Any]], ratios: dict[str, float], out: Path = RESULTS) -> None:
    """Print and write the figures of one run.

    Args:
        name (`str`): Name of the measurement.
        figures (`list[dict]`): One entry for each method. The keys of the first entry are the table's columns; other
            entries may lack some.
        ratios (`dict[str, float]`): Ratios and other figures of the whole measurement, by name.
        out (`Path`, *optional*): Folder of the file.
    """
    columns = list(figures[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(_shown(entry.get(column, "")) for column in columns) + " |" for entry in figures]
    lines += ["", *(f"{what}: {value:.2f}" for what, value in ratios.items())]
    print("\n".join(lines))
    out.mkdir(parents=True, exist_ok=True)
    results = {"figures": figures, "ratios": ratios, "provenance": collect_provenance()}
    (out / f"{name}.json").write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _shown(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"
