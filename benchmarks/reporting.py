"""What every measurement leaves: a table for people, and results/<name>.json with where it comes from."""

import json
from pathlib import Path
from typing import Any

from drafter_trainer.provenance import collect_provenance

RESULTS = Path(__file__).parent / "results"


def report(name: str, figures: list[dict[str, Any]], ratios: dict[str, float], out: Path = RESULTS) -> None:
    """Print and write the figures of one run.

    Args:
        name (`str`): Of the measurement.
        figures (`list[dict]`): One entry a method; the keys of the first are the table's columns, which
            others may lack.
        ratios (`dict[str, float]`): What is compared, and its bar.
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
