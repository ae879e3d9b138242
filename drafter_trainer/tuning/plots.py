"""The forecast as a picture."""

from pathlib import Path

import matplotlib
import numpy as np

from drafter_trainer.decoding.replay import Costs
from drafter_trainer.tuning.forecast import best_draft_length, expected_speedup

matplotlib.use("agg")
import matplotlib.pyplot as plt


def plot_forecast(costs: Costs, title: str, path: Path) -> None:
    """Draw the target's pass by its tokens, and the speedup by α at the best and at fixed draft lengths."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    tokens = np.arange(1, len(costs.passes) + 1)
    left.plot(tokens, costs.passes, marker="o", label="one pass of the target")
    left.plot(tokens, costs.passes + costs.step * (tokens - 1), marker=".", label="the same with drafting it")
    left.axhline(costs.plain, color="grey", linestyle="--", label="one token of plain decoding")
    left.set(xlabel="tokens in the pass", ylabel="milliseconds", ylim=(0, None), title="what a round takes")
    left.legend()
    alphas = np.linspace(0, 0.95, 96)
    for length in (1, 2, 4, 8, 16):
        if length < len(costs.passes):
            speedups = [expected_speedup(alpha, length, costs) for alpha in alphas]
            right.plot(alphas, speedups, linewidth=1, label=f"{length} drafted")
    best = [expected_speedup(alpha, best_draft_length(alpha, costs), costs) for alpha in alphas]
    right.plot(alphas, best, color="black", linewidth=2, label="best length")
    right.axhline(1, color="grey", linestyle="--")
    right.set(xlabel="α, the chance that a drafted token is accepted", ylabel="speedup", title="what it brings")
    right.legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)
