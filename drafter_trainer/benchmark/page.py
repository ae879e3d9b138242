"""The report as files: Markdown, plots, and one page that needs nothing beside itself."""

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import regex
from jinja2 import Environment, StrictUndefined

from drafter_trainer.atomic import write_whole
from drafter_trainer.benchmark.caveats import caveats
from drafter_trainer.benchmark.report import provenance_rows, render_markdown, run_tables, title
from drafter_trainer.extras import is_installed
from drafter_trainer.results import MeasuredRun, Results


def render_page(results: Results) -> str:
    """Render results as one HTML page, with its style and its plots in it; it loads nothing from anywhere.

    Returns:
        `str`, the page. Names from the results are escaped.
    """
    return render_html(
        resources.files("drafter_trainer.benchmark") / "page_template.html",
        name=results["provenance"].get("drafter", "Benchmark"),
        provenance=provenance_rows(results),
        runs=[_run(results, run) for run in results["runs"]],
        caveats=caveats(results),
    )


def render_html(template: Traversable, **values: Any) -> str:
    """Render a page from its template, with the style that all pages share in it.

    Args:
        template (`Traversable`): The file; `style | safe` stands in it for the shared style.
        values: What stands in it beside. Text is escaped.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    style = (resources.files("drafter_trainer.benchmark") / "page_style.css").read_text(encoding="utf-8")
    return environment.from_string(template.read_text(encoding="utf-8")).render(style=style, **values)


def _run(results: Results, run: MeasuredRun) -> dict[str, Any]:
    plots = {}
    if is_installed("matplotlib"):
        from drafter_trainer.benchmark.plots import draw_run, to_svg

        plots = {name: to_svg(figure) for name, figure in draw_run(run).items()}
    return {"title": title(results, run), "tables": run_tables(run), "plots": plots}


def write_report(results: Results, folder: Path) -> None:
    """Write `report.md`, `report.html` and, where matplotlib is installed, `plots/*.png`."""
    plots = folder / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    for name, text in {"report.md": render_markdown(results), "report.html": render_page(results)}.items():
        write_whole(folder / name, text)
    if not is_installed("matplotlib"):
        return
    from drafter_trainer.benchmark.plots import draw_run

    for run in results["runs"]:
        sampling = "greedy" if run["temperature"] == 0 else f"T{run['temperature']:g}-seed{run['seed']}"
        engine = f"-{said['name']}-{said['requests_at_once']}" if (said := run.get("engine")) else ""
        # A name from a file that somebody sent must not lead out of the folder.
        stem = regex.sub(r"[^\w\p{M}.-]+", "_", f"{run['pair']}-{run['task']}-{sampling}{engine}")
        for name, figure in draw_run(run).items():
            figure.savefig(plots / f"{stem}-{name}.png", dpi=120)
