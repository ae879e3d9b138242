"""A run's figures as pictures."""

import io
import re
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from drafter_trainer.benchmark.report import TIME_PARTS
from drafter_trainer.results import MeasuredRun

_INK = "#010203"  # told apart from every other colour, so that a page may put its own in its place
_INKED = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
# A dollar sign in a name is no formula, and text stays text, which is smaller and can be searched.
_STYLE = dict.fromkeys(_INKED, _INK) | {"text.parse_math": False, "svg.fonttype": "none"}
_STYLE |= {"svg.hashsalt": "drafter_trainer", "legend.frameon": False}


def plot_speedups(run: MeasuredRun) -> Figure:
    """Draw each method's speedup with its 95 % interval."""
    methods = run["methods"]
    figure, axes = _bars([method["name"] for method in methods])
    for row, method in enumerate(methods):
        value, low, high = (method["speedup"][key] for key in ("value", "low", "high"))
        axes.errorbar([value], [row], xerr=[[value - low], [high - value]], fmt="o", color="C0", capsize=4)
    axes.axvline(1, color="grey", linestyle="--", linewidth=1)
    axes.set(xlabel="speedup over plain decoding, 95 % interval", xlim=(0, None))
    return figure


def plot_acceptance(run: MeasuredRun) -> Figure | None:
    """Draw the share of rounds that accepted a token at each position, or return `None` where nothing was drafted."""
    drafting = [method for method in run["methods"] if method["acceptance_by_position"]]
    if not drafting:
        return None
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    # There may be more methods than colours.
    axes.set_prop_cycle(cycler(linestyle=("-", "--", ":")) * matplotlib.rcParams["axes.prop_cycle"])
    for method in drafting:
        shares = method["acceptance_by_position"]
        axes.plot(range(1, len(shares) + 1), shares, marker=".", label=method["name"])
    axes.set(xlabel="position in the draft", ylabel="rounds that accepted a token there", ylim=(0, 1))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    return figure


def plot_time(run: MeasuredRun) -> Figure | None:
    """Draw where the time of a token went, or return `None` where that was not measured."""
    split = [method for method in run["methods"] if "time_split" in method]
    if not split:
        return None
    figure, axes = _bars([method["name"] for method in split])
    ends = [0.0] * len(split)
    for part in TIME_PARTS:
        widths = [1000 * method["time_split"][f"{part}_seconds"] / method["tokens"] for method in split]
        axes.barh(range(len(split)), widths, left=ends, height=0.6, label=part)
        ends = [end + width for end, width in zip(ends, widths)]
    axes.set(xlabel="milliseconds a token")
    figure.legend(loc="outside upper right", ncols=len(TIME_PARTS))
    return figure


def plot_tokens(run: MeasuredRun) -> Figure | None:
    """Draw speedups by the tokens of finetuning, or return `None` where no two drafters differ in them."""
    finetuned = [method for method in run["methods"] if method.get("finetuning_tokens")]
    if len({method["finetuning_tokens"] for method in finetuned}) < 2:
        return None
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    for method in finetuned:
        tokens = method["finetuning_tokens"]
        value, low, high = (method["speedup"][key] for key in ("value", "low", "high"))
        axes.errorbar([tokens], [value], yerr=[[value - low], [high - value]], fmt="o", color="C0", capsize=4)
        axes.annotate(method["name"], (tokens, value), xytext=(6, 6), textcoords="offset points", fontsize="small")
    axes.axhline(1, color="grey", linestyle="--", linewidth=1)
    axes.set(xscale="log", xlabel="tokens of finetuning", ylabel="speedup over plain decoding, 95 % interval")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.2)
    return figure


def _bars(names: list[str]) -> tuple[Figure, Any]:
    figure = Figure(figsize=(6.4, 1.2 + 0.36 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    return figure, axes


@matplotlib.rc_context(_STYLE)
def draw_run(run: MeasuredRun) -> dict[str, Figure]:
    """Draw all plots for which something was measured, by name."""
    figures = {"speedup": plot_speedups(run), "acceptance": plot_acceptance(run)}
    figures |= {"time": plot_time(run), "tokens": plot_tokens(run)}
    return {name: figure for name, figure in figures.items() if figure}


@matplotlib.rc_context(_STYLE)
def to_svg(figure: Figure) -> str:
    """Return a figure as an SVG element for a page, whose text colour it takes, light or dark."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]  # what stands before belongs to a file of its own
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Numbered names are nobody's anchors, and would stand on the page once for each figure.
    svg = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", svg)
    return svg.replace(_INK, "currentColor").strip()
