"""Compare initial layers, their number and learning rates of drafters, with equal rows and without a clock.

    python benchmarks/initial_layers.py --config recipes/configs/gemma-3-270m/de-en.yaml \
        --rows runs/*/distill --completions runs/held-out.json --starts 0,1,16,17@1e-3 search:8@1e-4

Each start is trained for one epoch on the same rows. The network is then replayed with 5 tokens
per round on held-out greedy completions of `tokens_per_pass.py`. `search:8` stands for the eight layers that
`search_layers` finds on sixteen training rows. With `--share_keys`, each layer attends to the keys of the target's
layer that it started from.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from reporting import RESULTS, report
from studies import HeldOut, read_rows, study_arguments
from transformers import set_seed

from drafter_trainer import DrafterTrainer, create_drafter, search_layers
from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.targets import Target

SEARCHED_ROWS = 16


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="Configuration of the target")
    parser.add_argument("--rows", nargs="+", type=Path, required=True, help="Folders of self-distilled rows")
    parser.add_argument("--completions", type=Path, required=True, help="Kept by tokens_per_pass.py, to be replayed")
    parser.add_argument("--starts", nargs="+", required=True, metavar="LAYERS@LEARNING_RATE")
    parser.add_argument("--share_keys", action="store_true", help="Train and draft behind the target's keys")
    parser.add_argument("--max_rows", type=int, default=1700)
    parser.add_argument("--prompt_window", type=int, default=64)
    parser.add_argument("--draft_vocabulary", type=int, default=12288)
    parser.add_argument("--name", default="initial_layers", help="Of the results")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    (_, where, *_), _ = parse_arguments("export", ["--config", options.config], __doc__)
    target = where.resolve()
    rows, draft_ids = read_rows(options.rows, target, options.draft_vocabulary)
    rows = rows.select(range(min(options.max_rows, len(rows))))
    held_out = HeldOut(options.completions, target)
    figures = []
    for start in options.starts:
        said, _, rate = start.partition("@")
        layers = choose(said, target, rows, options.prompt_window)
        with tempfile.TemporaryDirectory() as folder:
            loss = train(Path(folder), target, layers, float(rate), rows, draft_ids, options)
            figure = held_out.replay(Path(folder), alone=True)
        figures.append({"layers": " ".join(map(str, layers)), "learning rate": rate, "loss at the end": loss} | figure)
        facts = {"training tokens": sum(map(len, rows["response_ids"]))} | held_out.facts
        report(options.name, figures, facts, options.out)


def choose(said: str, target: Target, rows: Dataset, prompt_window: int) -> list[int]:
    """Read the numbers of layers, or search the requested number of layers."""
    what, _, number = said.partition(":")
    if what != "search":
        return [int(layer) for layer in said.split(",")]
    model = target.load_model("bfloat16")
    return search_layers(model, list(rows.select(range(SEARCHED_ROWS))), int(number), prompt_window=prompt_window)


def train(
    folder: Path,
    target: Target,
    layers: list[int],
    rate: float,
    rows: Dataset,
    draft_ids: torch.Tensor,
    options: argparse.Namespace,
) -> float:
    """Train a drafter into a folder, and return the mean loss of the last steps."""
    set_seed(0)
    drafter = create_drafter(target, layers=layers, freeze_embeddings=True, languages="de-en")
    arguments = study_arguments(
        folder,
        loss_type="topk_kl",
        prompt_window=options.prompt_window,
        kv_sharing_layers=layers if options.share_keys else [],
        max_length=512,
        per_device_train_batch_size=8,
        learning_rate=rate,
        lr_scheduler_type="cosine",
        warmup_steps=30,
        train_sampling_strategy="group_by_length",
        logging_steps=10,
    )
    trainer = DrafterTrainer(drafter, arguments, train_dataset=rows, draft_ids=draft_ids)
    trainer.train()
    trainer.save_model()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return sum(losses[-2:]) / len(losses[-2:])


if __name__ == "__main__":
    main()
