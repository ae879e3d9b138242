"""Write tables and plots of results/findings.json into docs/findings.md, between its marks.

python benchmarks/findings_report.py
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("agg")
import matplotlib.pyplot as plt
from reporting import RESULTS

from drafter_trainer.benchmark.report import markdown_table
from drafter_trainer.benchmark.target_quality import quality_warning, read_qualities

DOCS = Path(__file__).parent.parent / "docs"
_LABELS = {"layers of the target": "finetuned only", "pretrained": "pretrained, then finetuned"}
_LONGER = "longer"
_LONGER_LABEL = "on the way to the published drafter"


def main() -> None:
    """Render."""
    results = json.loads((RESULTS / "findings.json").read_text(encoding="utf-8"))
    first = results["runs"][0]
    speeds = {method["name"]: method for method in first["methods"]}
    networks = {name: network | {"measured": speeds[name]} for name, network in results["networks"].items()}
    curves = {start: points(networks, start) for start in _LABELS}
    longer = points(networks, _LONGER)
    plot_tokens(curves, longer, networks["pretrained"], DOCS / "findings_tokens.png")
    text = (DOCS / "findings.md").read_text(encoding="utf-8")
    plot = "![Speedup and expected α by finetuning tokens](findings_tokens.png)"
    fits = map(fit_line, _LABELS, curves.values())
    text = put(text, "target", quality_warning([results], read_qualities(DOCS.parent / "hub_cards")))
    text = put(text, "amount", "\n".join([amount_table(networks), "", *fits, "", plot]))
    half = next(network["rows"] for network in networks.values() if network["loss"] == "lk_hybrid")
    losses = {
        name: each for name, each in networks.items() if each["start"] == "pretrained" and each.get("rows") == half
    }
    text = put(text, "losses", table(losses, "loss", lambda name, network: network["loss"]))
    stages = {name: each for name, each in networks.items() if each["start"] == "finetuned"}
    before = max((each for each in curves["pretrained"]), key=lambda each: each["rows"])
    text = put(text, "stages", table({"none": before} | stages, "third stage", lambda name, network: name))
    text = put(text, "languages", languages_table(results["runs"], before["name"]))
    (DOCS / "findings.md").write_text(text, encoding="utf-8")


def points(networks: dict[str, Any], start: str) -> list[dict[str, Any]]:
    """List the networks of one curve, by what they learned from."""
    chosen = [
        network | {"name": name}
        for name, network in networks.items()
        if network["start"] == start and network["loss"] == (None if start == _LONGER else "topk_kl")
    ]
    return sorted(chosen, key=lambda network: network["tokens"])


def fit(curve: list[dict[str, Any]]) -> tuple[float, float]:
    """Fit speedup = a + b log10(tokens); return a and b."""
    tokens = np.log10([network["tokens"] for network in curve])
    slope, offset = np.polyfit(tokens, [network["measured"]["speedup"]["value"] for network in curve], 1)
    return float(offset), float(slope)


def fit_line(start: str, curve: list[dict[str, Any]]) -> str:
    """Say what a fit found."""
    offset, slope = fit(curve)
    sign = "+" if slope >= 0 else "-"
    return f"Fit, {_LABELS[start]}: speedup = {offset:.2f} {sign} {abs(slope):.2f} log10(tokens)."


def amount_table(networks: dict[str, Any]) -> str:
    """Render a row for each amount, none of finetuning first."""
    shown = {"pretrained": networks["pretrained"]}
    for start in _LABELS:
        shown |= {network["name"]: network for network in points(networks, start)}
    shown |= {network["name"]: network for network in points(networks, _LONGER)}
    labels = _LABELS | {_LONGER: _LONGER_LABEL}
    return table(shown, "network", lambda name, network: labels[network["start"]] if network["tokens"] else name)


def table(networks: dict[str, Any], header: str, label: Any) -> str:
    """Render networks with what they learned from and what they brought."""
    rows = [
        [
            label(name, network),
            f"{network['tokens']:,}",
            share(network.get("eval_expected_alpha")),
            share(network.get("eval_greedy_agreement")),
            *speed(network["measured"]),
        ]
        for name, network in networks.items()
    ]
    columns = [header, "finetuning tokens", "expected α", "greedy agreement", "tokens per pass", "speedup (95 %)"]
    return markdown_table(columns, rows)


def languages_table(runs: list[dict[str, Any]], name: str) -> str:
    """Render what one network brings in each pair."""
    rows = []
    for run in runs:
        method = next(method for method in run["methods"] if method["name"] == name)
        alpha = share(method["alpha"])
        rows.append([run["pair"], run["questions"]["source"], str(run["questions"]["count"]), alpha, *speed(method)])
    return markdown_table(["pair", "questions", "count", "α", "tokens per pass", "speedup (95 %)"], rows)


def speed(method: dict[str, Any]) -> list[str]:
    """Say what a method yields and gains."""
    speedup = method["speedup"]
    interval = f"{speedup['value']:.2f}x ({speedup['low']:.2f}-{speedup['high']:.2f})"
    return [f"{method['mean_accepted_tokens']:.2f}", interval]


def share(value: float | None) -> str:
    """Write a share, or a dash where it was not measured."""
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def plot_tokens(
    curves: dict[str, list[dict[str, Any]]], longer: list[dict[str, Any]], pretrained: dict[str, Any], path: Path
) -> None:
    """Draw speedup and expected α by finetuning tokens, on a logarithmic axis."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    labels = _LABELS | {_LONGER: _LONGER_LABEL}
    for (start, curve), marker in zip((curves | {_LONGER: longer}).items(), "os^"):
        if not curve:
            continue
        tokens = np.array([network["tokens"] for network in curve])
        speedups = [network["measured"]["speedup"] for network in curve]
        values = np.array([speedup["value"] for speedup in speedups])
        errors = [values - [each["low"] for each in speedups], [each["high"] for each in speedups] - values]
        drawn = left.errorbar(tokens, values, yerr=errors, fmt=marker, capsize=3, label=labels[start])
        if start != _LONGER:  # their data and losses differ
            offset, slope = fit(curve)
            left.plot(tokens, offset + slope * np.log10(tokens), color=drawn.lines[0].get_color(), linewidth=1)
        right.plot(tokens, [network["eval_expected_alpha"] for network in curve], marker=marker, label=labels[start])
    left.axhline(pretrained["measured"]["speedup"]["value"], linestyle=":", color="grey", label="pretrained only")
    for axis in (left, right):
        axis.set(xscale="log", xlabel="finetuning tokens")
        axis.legend()
    left.set(ylabel="speedup of the network alone", title="by the clock, with 95 % intervals and the fit")
    right.set(ylabel="expected α", title="held-out answers")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def put(text: str, name: str, content: str) -> str:
    """Replace what stands between two marks."""
    begin, end = f"<!-- {name}: findings_report.py -->", f"<!-- end of {name} -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    if not after:
        sys.exit(f"error: docs/findings.md lacks the marks {begin} and {end}: put them back")
    return f"{before}{begin}\n{content}\n{end}{after}"


if __name__ == "__main__":
    main()
