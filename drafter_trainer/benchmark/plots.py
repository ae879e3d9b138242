"""Plots of a run."""

import io
import re
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.figure import Figure

from drafter_trainer.benchmark.report import TIME_PARTS
from drafter_trainer.results import MeasuredRun

_INK = "#010203"  # different from every other color, so that a page can replace it by its own
_INKED = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
# A dollar sign in a name starts no formula. Text is not drawn as paths, so it is small and can be searched.
_STYLE = dict.fromkeys(_INKED, _INK) | {"text.parse_math": False, "svg.fonttype": "none"}
_STYLE |= {"svg.hashsalt": "drafter_trainer", "legend.frameon": False}


@matplotlib.rc_context(_STYLE)
def draw_run(run: MeasuredRun) -> dict[str, Figure]:
    """Draw all plots for which something was measured: "speedup", "acceptance" and "time"."""
    figures = {"speedup": _plot_speedups(run)}
    if any(method["acceptance_by_position"] for method in run["methods"]):
        figures["acceptance"] = _plot_acceptance(run)
    if any("time_split" in method for method in run["methods"]):
        figures["time"] = _plot_time(run)
    return figures


def _plot_speedups(run: MeasuredRun) -> Figure:
    """Draw each method's speedup with its 95 % interval."""
    methods = run["methods"]
    figure, axes = _bars([method["name"] for method in methods])
    for row, method in enumerate(methods):
        value, low, high = (method["speedup"][key] for key in ("value", "low", "high"))
        axes.errorbar([value], [row], xerr=[[value - low], [high - value]], fmt="o", color="C0", capsize=4)
    axes.axvline(1, color="grey", linestyle="--", linewidth=1)
    axes.set(xlabel="speedup over plain decoding, 95 % interval", xlim=(0, None))
    return figure


def _plot_acceptance(run: MeasuredRun) -> Figure:
    """Draw the share of rounds that accepted a token at each position of the draft."""
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    # There may be more methods than colors.
    axes.set_prop_cycle(cycler(linestyle=("-", "--", ":")) * matplotlib.rcParams["axes.prop_cycle"])
    for method in run["methods"]:
        if shares := method["acceptance_by_position"]:
            axes.plot(range(1, len(shares) + 1), shares, marker=".", label=method["name"])
    axes.set(xlabel="position in the draft", ylabel="rounds that accepted a token there", ylim=(0, 1))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    return figure


def _plot_time(run: MeasuredRun) -> Figure:
    """Draw the time per token, split into drafting, verification and overhead."""
    split = [method for method in run["methods"] if "time_split" in method]
    figure, axes = _bars([method["name"] for method in split])
    ends = [0.0] * len(split)
    for part in TIME_PARTS:
        widths = [1000 * method["time_split"][f"{part}_seconds"] / method["tokens"] for method in split]
        axes.barh(range(len(split)), widths, left=ends, height=0.6, label=part)
        ends = [end + width for end, width in zip(ends, widths)]
    axes.set(xlabel="milliseconds per token")
    figure.legend(loc="outside upper right", ncols=len(TIME_PARTS))
    return figure


def _bars(names: list[str]) -> tuple[Figure, Any]:
    figure = Figure(figsize=(6.4, 1.2 + 0.36 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    return figure, axes


@matplotlib.rc_context(_STYLE)
def to_svg(figure: Figure) -> str:
    """Return a figure as an SVG element that takes the text color of its page, light or dark."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]  # without the header of an SVG file
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Nothing refers to numbered ids, and they would repeat in every figure of the page.
    svg = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", svg)
    return svg.replace(_INK, "currentColor").strip()
