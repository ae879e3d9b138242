"""A training as a picture."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

_ACCEPTANCE = {"eval_expected_alpha": "expected α", "eval_greedy_agreement": "greedy agreement"}


def plot_training(history: list[dict[str, Any]], path: Path) -> None:
    """Draw the loss, and the acceptance of held-out rows where there is one, by the tokens that were read.

    Args:
        history (`list[dict]`): The Trainer's log, in its order.
    """
    accepts = any(name in entry for entry in history for name in _ACCEPTANCE)
    figure, axes = plt.subplots(
        1, 1 + accepts, figsize=(5.5 * (1 + accepts), 4.2), layout="constrained", squeeze=False
    )
    for name, label in {"loss": "training", "eval_loss": "held-out rows"}.items():
        _draw(axes[0, 0], history, name, label)
    axes[0, 0].set(xlabel="tokens read", ylabel="loss, nats a token")
    axes[0, 0].legend()
    if accepts:
        for name, label in _ACCEPTANCE.items():
            _draw(axes[0, 1], history, name, label)
        axes[0, 1].set(xlabel="tokens read", ylabel="share", ylim=(0, 1), title="held-out rows")
        axes[0, 1].legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw(axis: plt.Axes, history: list[dict[str, Any]], name: str, label: str) -> None:
    points = [(entry["num_input_tokens_seen"], entry[name]) for entry in history if name in entry]
    if points:
        axis.plot(*zip(*points), marker="o" if len(points) < 30 else None, label=label)
