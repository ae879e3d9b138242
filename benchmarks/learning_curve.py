"""Tokens per target pass by the number of completion tokens in training, for each loss, without a clock.

    python benchmarks/learning_curve.py --config recipes/configs/gemma-3-270m/de-en.yaml \
        --rows runs/*/distill --completions runs/held-out.json --losses topk_kl cross_entropy lk_hybrid

The configuration gives the shape and the training of the drafters. All of them use the same rows in the same order, at
one constant learning rate. At each point, the network is replayed with 5 tokens per round on held-out greedy
completions of `tokens_per_pass.py`.
"""

import argparse
import bisect
import itertools
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from reporting import RESULTS, report
from studies import HeldOut, read_rows, study_arguments
from transformers import TrainerCallback, set_seed

from drafter_trainer import DrafterTrainer, create_drafter
from drafter_trainer.cli.configuration import parse_arguments

POINTS = (0, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)  # completion tokens


class Curve(TrainerCallback):
    """A callback that replays the drafter when its number of training tokens reaches a point of the curve.

    Args:
        lengths (`list[int]`): Completion tokens of each row, in the order in which the trainer reads them.
        held_out (`HeldOut`): The completions that are replayed.
    """

    def __init__(self, lengths: list[int], held_out: HeldOut) -> None:
        self.learned, self.held_out = [0, *itertools.accumulate(lengths)], held_out
        self.points, self.figures = list(POINTS), []

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Replay the drafter before training."""
        self.on_step_end(args, state, control, **given)

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Replay at a point."""
        read = state.global_step * args.per_device_train_batch_size
        tokens = self.learned[min(read, len(self.learned) - 1)]
        if self.points and tokens >= self.points[0]:
            self.points = [point for point in self.points if point > tokens]
            self.replay(tokens, Path(args.output_dir))

    def replay(self, tokens: int, folder: Path) -> None:
        """Measure one point."""
        self.trainer.save_model(str(folder))
        self.figures.append({"tokens": tokens} | self.held_out.replay(folder))


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="Of the target and the drafter")
    parser.add_argument("--rows", nargs="+", type=Path, required=True, help="Folders of self-distilled rows")
    parser.add_argument("--completions", type=Path, required=True, help="Kept by tokens_per_pass.py, to be replayed")
    parser.add_argument("--losses", nargs="+", default=["topk_kl"])
    parser.add_argument("--max_tokens", type=int, default=100_000, help="Completion tokens of a training")
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--name", default="learning_curve", help="Of the results and the plot")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    (_, where, _, shape, training), _ = parse_arguments("finetune", ["--config", options.config], __doc__)
    target = where.resolve()
    rows, draft_ids = read_rows(options.rows, target, training.draft_vocabulary)
    lengths = [len(ids) for ids in rows["response_ids"]]
    number = bisect.bisect_left([*itertools.accumulate(lengths)], options.max_tokens) + 1
    rows = rows.select(range(min(number, len(rows))))
    held_out = HeldOut(options.completions, target)
    figures = []
    for loss in options.losses:
        set_seed(0)
        drafter = create_drafter(target, layers=shape.initial_layers, freeze_embeddings=True, languages="de-en")
        curve = Curve(lengths, held_out)
        with tempfile.TemporaryDirectory() as folder:
            arguments = study_arguments(
                Path(folder),
                loss_type=loss,
                prompt_window=training.prompt_window,
                kv_sharing_layers=training.kv_sharing_layers,
                max_length=training.max_length,
                per_device_train_batch_size=training.per_device_train_batch_size,
                learning_rate=options.learning_rate,
                lr_scheduler_type="constant_with_warmup",
                warmup_steps=10,
                train_sampling_strategy="sequential",
            )
            trainer = DrafterTrainer(drafter, arguments, train_dataset=rows, draft_ids=draft_ids, callbacks=[curve])
            curve.trainer = trainer
            trainer.train()
        figures += [{"loss": loss} | figure for figure in curve.figures]
        report(options.name, figures, held_out.facts, options.out)
        draw(figures, options.out / f"{options.name}.png")


def draw(figures: list[dict[str, Any]], path: Path) -> None:
    """Draw tokens per target pass against the number of completion tokens, on a logarithmic axis."""
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for loss in dict.fromkeys(entry["loss"] for entry in figures):
        points = [entry for entry in figures if entry["loss"] == loss]
        axes.plot(
            [entry["tokens"] for entry in points],
            [entry["tokens per target pass"] for entry in points],
            marker="o",
            label=loss,
        )
    axes.set_xscale("symlog", linthresh=300)
    axes.set_xlabel("completion tokens learned from")
    axes.set_ylabel("tokens per target pass")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
