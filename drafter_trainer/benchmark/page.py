"""Write the report: Markdown, plots, and an HTML page that loads nothing."""

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import regex
from jinja2 import Environment, StrictUndefined

from drafter_trainer.atomic import write_whole
from drafter_trainer.benchmark.report import caveats, provenance_rows, render_markdown, run_tables, title
from drafter_trainer.extras import is_installed
from drafter_trainer.results import MeasuredRun, Results


def render_page(results: Results) -> str:
    """Render results as one HTML page, with its style and its plots inside.

    Returns:
        `str`, the page. Names from the results are escaped.
    """
    runs = []
    for run in results["runs"]:
        plots = {}
        if figures := _draw(run):
            from drafter_trainer.benchmark.plots import to_svg

            plots = {name: to_svg(figure) for name, figure in figures.items()}
        runs.append({"title": title(results, run), "tables": run_tables(run), "plots": plots})
    return render_html(
        resources.files("drafter_trainer.benchmark") / "page_template.html",
        name=results["provenance"].get("drafter", "Benchmark"),
        provenance=provenance_rows(results),
        runs=runs,
        caveats=caveats(results),
    )


def render_html(template: Traversable, **values: Any) -> str:
    """Render a template with the style that all pages share.

    Args:
        template (`Traversable`): The file, with `{{ style | safe }}` where the style goes.
        values: The other variables of the template. Text is escaped.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    style = (resources.files("drafter_trainer.benchmark") / "page_style.css").read_text(encoding="utf-8")
    return environment.from_string(template.read_text(encoding="utf-8")).render(style=style, **values)


def write_report(results: Results, folder: Path) -> None:
    """Write `report.md`, `report.html` and, if matplotlib is installed, `plots/*.png`."""
    plots = folder / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "report.md", render_markdown(results))
    write_whole(folder / "report.html", render_page(results))
    for run in results["runs"]:
        sampling = "greedy" if run["temperature"] == 0 else f"T{run['temperature']:g}-seed{run['seed']}"
        engine = f"-{engine['name']}-{engine['requests_at_once']}" if (engine := run.get("engine")) else ""
        # A name from somebody else's file must not become a path out of the folder.
        stem = regex.sub(r"[^\w\p{M}.-]+", "_", f"{run['pair']}-{run['task']}-{sampling}{engine}")
        for name, figure in _draw(run).items():
            figure.savefig(plots / f"{stem}-{name}.png", dpi=120)


def _draw(run: MeasuredRun) -> dict[str, Any]:
    if not is_installed("matplotlib"):
        return {}
    from drafter_trainer.benchmark.plots import draw_run

    return draw_run(run)
