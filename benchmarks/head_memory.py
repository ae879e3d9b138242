"""Peak memory of a training step with a vocabulary of 256,000: logits in pieces, and all logits at once.

    python benchmarks/head_memory.py

Each variant takes two steps with the Trainer's own optimizer, on 4 rows of 1,024 supervised tokens. It trains the
drafter of Table 4 of arXiv 2406.16758 (Gemma, 239M parameters, random weights), in fp32 and without gradient
checkpointing. Each variant runs in its own process.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import torch
from reporting import RESULTS, report
from transformers import GemmaConfig, GemmaForCausalLM

from drafter_trainer.training.arguments import PretrainingArguments
from drafter_trainer.training.trainers import PretrainingTrainer

ROWS, LENGTH = 4, 1024
WAYS = {"pieces": "the head in pieces", "dense": "all logits at once"}


def main() -> None:
    """Measure each variant in its own process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", choices=WAYS, help="Do one way, and say its peak (what the others are started with)")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(step_twice(options.way)))
        return
    figures = []
    for way, name in WAYS.items():
        said = subprocess.run([sys.executable, __file__, "--way", way], capture_output=True, text=True, check=True)
        figures.append({"method": name} | json.loads(said.stdout.splitlines()[-1]))
    peaks = [entry["peak MiB"] for entry in figures]
    report("head_memory", figures, {"peak memory, pieces / all at once (bar 0.33)": peaks[0] / peaks[1]}, options.out)


def step_twice(way: str) -> dict[str, float]:
    """Train two steps.

    Returns:
        `dict` with the peak, in MiB, of the accelerator's memory or of the whole process, and the loss.
    """
    torch.manual_seed(0)
    config = GemmaConfig(
        vocab_size=256_000,
        hidden_size=768,
        intermediate_size=6144,
        num_hidden_layers=2,
        num_attention_heads=16,
        num_key_value_heads=2,
        head_dim=48,
    )
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    model = GemmaForCausalLM(config).to(device)
    ids = torch.randint(0, config.vocab_size, (ROWS, LENGTH), device=device)
    arguments = PretrainingArguments(
        output_dir="unused",
        use_cpu=device.type == "cpu",
        save_strategy="no",
        eval_strategy="no",
        load_best_model_at_end=False,
    )
    trainer = PretrainingTrainer(model=model, args=arguments)
    optimizer = trainer.create_optimizer()
    for _ in range(2):
        if way == "dense":
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        else:
            loss = trainer.compute_loss(model, {"input_ids": ids, "labels": ids})
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"peak MiB": peak, "loss": loss.item()}


if __name__ == "__main__":
    main()
