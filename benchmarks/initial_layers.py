"""Which of a target's layers a drafter should start from, and at which learning rate: equal rows, no clock.

    python benchmarks/initial_layers.py --config recipes/configs/gemma-3-270m/de-en.yaml \
        --rows runs/gemma-3-270m-drafter-de-en/distill --held_out runs/held-out/distill \
        --starts 0,1,16,17@1e-3 search:8@1e-4

Each start is trained for one epoch on the same rows. The network then drafts 5 tokens a round, replayed on held-out
greedy completions. `search:8` stands for the eight layers that `search_layers` finds on sixteen training rows.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from reporting import RESULTS, report
from transformers import AutoModelForCausalLM, set_seed

from drafter_trainer import DrafterTrainer, DrafterTrainingArguments, create_drafter, search_layers
from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.decoding.metrics import alpha, mean_accepted_tokens
from drafter_trainer.decoding.replay import replay_at_fixed_length
from drafter_trainer.drafters.loop.repository import VOCABULARY, build_network, read_vocabulary
from drafter_trainer.targets import Target
from drafter_trainer.training.rows import load_rows

SEARCHED_ROWS = 16


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="Configuration of the target")
    parser.add_argument("--rows", type=Path, required=True, help="Folder of self-distilled rows to train on")
    parser.add_argument("--held_out", type=Path, required=True, help="Folder of self-distilled rows to replay")
    parser.add_argument("--starts", nargs="+", required=True, metavar="LAYERS@LEARNING_RATE")
    parser.add_argument("--max_rows", type=int, default=1700)
    parser.add_argument("--prompt_window", type=int, default=64)
    parser.add_argument("--draft_vocabulary", type=int, default=12288)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    (_, where, *_), _ = parse_arguments("export", ["--config", options.config], __doc__)
    target = where.resolve()
    rows = load_rows(options.rows / "train", target).shuffle(0)
    rows = rows.select(range(min(options.max_rows, len(rows))))
    held_out = load_rows(options.held_out / "train", target)
    completions = [(row["prompt_ids"], row["response_ids"]) for row in held_out]
    tokens = sum(len(completion) for _, completion in completions)
    end_ids = frozenset(target.end_ids(target.load_tokenizer()))
    figures = []
    for start in options.starts:
        said, _, rate = start.partition("@")
        layers = choose(said, target, rows, options.prompt_window)
        with tempfile.TemporaryDirectory() as folder:
            loss = train(Path(folder), target, layers, float(rate), rows, options)
            rounds = replay_at_fixed_length(load_network(Path(folder)), completions, 5, end_ids)
        figures.append(
            {
                "layers": " ".join(map(str, layers)),
                "learning rate": rate,
                "loss at the end": loss,
                "tokens per target pass": mean_accepted_tokens(tokens, len(rounds)),
                "alpha": alpha(rounds),
            }
        )
        facts = {"training tokens": sum(map(len, rows["response_ids"])), "held-out completions": len(completions)}
        report("initial_layers", figures, facts | {"held-out tokens": tokens}, options.out)


def choose(said: str, target: Target, rows: Dataset, prompt_window: int) -> list[int]:
    """Read layers, or search as many as are asked for."""
    what, _, number = said.partition(":")
    if what != "search":
        return [int(layer) for layer in said.split(",")]
    model = target.load_model("bfloat16")
    return search_layers(model, list(rows.select(range(SEARCHED_ROWS))), int(number), prompt_window=prompt_window)


def train(
    folder: Path, target: Target, layers: list[int], rate: float, rows: Dataset, options: argparse.Namespace
) -> float:
    """Train a drafter into a folder, and return the mean loss of the last steps."""
    set_seed(0)
    drafter = create_drafter(
        target, layers=layers, draft_vocabulary=options.draft_vocabulary, freeze_embeddings=True, languages="de-en"
    )
    arguments = study_arguments(
        folder,
        loss_type="topk_kl",
        prompt_window=options.prompt_window,
        max_length=256,
        per_device_train_batch_size=4,
        learning_rate=rate,
        lr_scheduler_type="cosine",
        warmup_steps=30,
        train_sampling_strategy="group_by_length",
        logging_steps=10,
    )
    trainer = DrafterTrainer(drafter, arguments, train_dataset=rows)
    trainer.train()
    trainer.save_model()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return sum(losses[-2:]) / len(losses[-2:])


def study_arguments(folder: Path, **given: Any) -> DrafterTrainingArguments:
    """Make the arguments of one epoch, without checkpoints or evaluation, that studies have in common."""
    return DrafterTrainingArguments(
        str(folder),
        num_train_epochs=1,
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
        report_to="none",
        **given,
    )


def load_network(folder: Path):
    """Load what was trained, as the drafting loop does."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return build_network(model, read_vocabulary(folder / VOCABULARY, model.config.vocab_size), int8=False)


if __name__ == "__main__":
    main()
