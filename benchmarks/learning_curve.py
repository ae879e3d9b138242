"""Tokens per target pass against the number of completion tokens that a drafter learned from, for each loss; no clock.

    python benchmarks/learning_curve.py --config recipes/configs/gemma-3-270m/de-en.yaml \
        --rows runs/*/distill --held_out runs/held-out/distill --losses topk_kl cross_entropy lk_hybrid

Each drafter starts from the layers that the configuration names, and reads the same rows in the same order at one
constant learning rate. At each point the network drafts 5 tokens a round, replayed on held-out greedy completions.
"""

import argparse
import bisect
import itertools
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from datasets import concatenate_datasets
from initial_layers import load_network, study_arguments
from reporting import RESULTS, report
from transformers import TrainerCallback, set_seed

from drafter_trainer import DrafterTrainer, create_drafter
from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.decoding.metrics import alpha, mean_accepted_tokens
from drafter_trainer.decoding.replay import replay_at_fixed_length
from drafter_trainer.training.rows import load_rows

POINTS = (0, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)  # completion tokens


class Curve(TrainerCallback):
    """Replay the drafter whenever it has learned from as many tokens as the next point says.

    Args:
        lengths (`list[int]`): Completion tokens of each row, in the order in which the trainer reads them.
        completions (`list` of pairs of `list[int]`): Held-out prompts and completions.
        end_ids (`frozenset[int]`): Ids that end a completion.
    """

    def __init__(
        self, lengths: list[int], completions: list[tuple[list[int], list[int]]], end_ids: frozenset[int]
    ) -> None:
        self.learned, self.completions, self.end_ids = [0, *itertools.accumulate(lengths)], completions, end_ids
        self.held_out = sum(len(completion) for _, completion in completions)
        self.points, self.figures = list(POINTS), []

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Replay what training starts from."""
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
        rounds = replay_at_fixed_length(load_network(folder), self.completions, 5, self.end_ids)
        yielded = mean_accepted_tokens(self.held_out, len(rounds))
        self.figures.append({"tokens": tokens, "tokens per target pass": yielded, "alpha": alpha(rounds)})


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="Of the target and the drafter")
    parser.add_argument("--rows", nargs="+", type=Path, required=True, help="Folders of self-distilled rows")
    parser.add_argument("--held_out", type=Path, required=True, help="Folder of self-distilled rows to replay")
    parser.add_argument("--losses", nargs="+", default=["topk_kl"])
    parser.add_argument("--max_tokens", type=int, default=100_000, help="Completion tokens of a training")
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    (_, where, _, shape, training), _ = parse_arguments("finetune", ["--config", options.config], __doc__)
    target = where.resolve()
    rows = concatenate_datasets([load_rows(folder / "train", target) for folder in options.rows]).shuffle(0)
    lengths = [len(ids) for ids in rows["response_ids"]]
    number = bisect.bisect_left([*itertools.accumulate(lengths)], options.max_tokens) + 1
    rows = rows.select(range(min(number, len(rows))))
    held_out = load_rows(options.held_out / "validation", target)
    completions = [(row["prompt_ids"], row["response_ids"]) for row in held_out]
    figures = []
    for loss in options.losses:
        set_seed(0)
        drafter = create_drafter(
            target,
            layers=shape.initial_layers,
            draft_vocabulary=training.draft_vocabulary,
            freeze_embeddings=True,
            languages="de-en",
        )
        curve = Curve(lengths, completions, frozenset(target.end_ids(target.load_tokenizer())))
        with tempfile.TemporaryDirectory() as folder:
            arguments = study_arguments(
                Path(folder),
                loss_type=loss,
                prompt_window=training.prompt_window,
                max_length=training.max_length,
                per_device_train_batch_size=training.per_device_train_batch_size,
                learning_rate=options.learning_rate,
                lr_scheduler_type="constant_with_warmup",
                warmup_steps=10,
                train_sampling_strategy="sequential",
            )
            trainer = DrafterTrainer(drafter, arguments, train_dataset=rows, callbacks=[curve])
            curve.trainer = trainer
            trainer.train()
        figures += [{"loss": loss} | figure for figure in curve.figures]
        report("learning_curve", figures, {"held-out completions": len(completions)}, options.out)
        draw(figures, options.out / "learning_curve.png")


def draw(figures: list[dict[str, Any]], path: Path) -> None:
    """Draw tokens per target pass over the tokens of completions, on a logarithmic axis."""
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
