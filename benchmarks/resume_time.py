"""Seconds from the call of `train` to the first step, for a packed run that resumes at 90 %.

    python benchmarks/resume_time.py

The script packs random tokens into rows, trains a tiny drafter on them, and resumes from the checkpoint at 90 % of the
steps. The drafter is small and there are many rows, so the time is mostly the search for the position in the data.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, load_from_disk
from reporting import RESULTS, report
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

from drafter_trainer.training.arguments import PretrainingArguments
from drafter_trainer.training.collators import collate_packed
from drafter_trainer.training.trainers import PretrainingTrainer


class FirstStep(TrainerCallback):
    """A callback that records the start of a run's first step."""

    def __init__(self) -> None:
        self.at = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Record the time if this is the first step."""
        self.at = self.at or time.perf_counter()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        rows = Dataset.from_dict({"input_ids": random.integers(0, 1000, (options.rows, options.length))})
        rows.save_to_disk(f"{folder}/packed")
        steps = options.rows // options.batch_size
        at = int(0.9 * steps)

        def make() -> tuple[PretrainingTrainer, FirstStep]:
            config = LlamaConfig(
                vocab_size=1000,
                hidden_size=8,
                intermediate_size=8,
                num_hidden_layers=1,
                num_attention_heads=1,
                num_key_value_heads=1,
            )
            arguments = PretrainingArguments(
                output_dir=folder,
                use_cpu=True,
                per_device_train_batch_size=options.batch_size,
                num_train_epochs=1,
                save_strategy="steps",
                save_steps=at,
                eval_strategy="no",
                load_best_model_at_end=False,
                disable_tqdm=True,
                logging_steps=steps,
            )
            first = FirstStep()
            trainer = PretrainingTrainer(
                model=LlamaForCausalLM(config),
                args=arguments,
                train_dataset=load_from_disk(f"{folder}/packed"),
                data_collator=collate_packed,
                callbacks=[first],
            )
            return trainer, first

        # Reach 90 % without training: take one step, and state in its checkpoint that it is at 90 %.
        trainer, _ = make()
        trainer.args.max_steps, trainer.args.save_steps = 1, 1
        trainer.train()
        checkpoint = Path(folder) / "checkpoint-1"
        state = trainer.state
        state.global_step, state.epoch, state.max_steps = at, at / steps, steps
        state.save_to_json(str(checkpoint / "trainer_state.json"))
        checkpoint = checkpoint.rename(Path(folder) / f"checkpoint-{at}")
        trainer, first = make()
        trainer.args.max_steps = at + 1
        start = time.perf_counter()
        trainer.train(resume_from_checkpoint=str(checkpoint))
        seconds = first.at - start
    figures = [{"rows": options.rows, "tokens a row": options.length, "steps": steps, "goes on at": at, "s": seconds}]
    report("resume_time", figures, {"seconds to the first step (bar 10)": seconds}, options.out)


if __name__ == "__main__":
    main()
