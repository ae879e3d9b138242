"""Run all steps on one machine, from text to a published drafter and its table of speedups.

    make quickstart

Each step is printed as a command before it runs. Finished steps are not repeated.
"""

import os
import resource
import time
from pathlib import Path

from drafter_trainer.benchmark.report import markdown_table, speedup_tables
from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.cli.launch import call_step, run_step
from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.hub.card import usage
from drafter_trainer.results import RESULTS, read_results

CONFIG = "recipes/configs/gemma-3-270m/quickstart.yaml"
STEPS = (
    ("distill the target's completions", "distill"),
    ("finetune", "finetune"),
    ("tune", "tune"),
    ("load again and measure", "bench"),
    ("publish with the card", "publish"),
)


def main(argv: list[str]) -> None:
    os.environ["ACCELERATE_USE_CPU"] = "true"  # as in recipes/accelerate/cpu.yaml
    (named, where, publishing), _ = parse_arguments("publish", argv, __doc__)
    times = []
    begin = time.monotonic()
    for title, step in STEPS:
        start = time.monotonic()
        call_step(step, ["--config", CONFIG])
        times.append([title, f"{time.monotonic() - start:.0f} s"])
    times.append(["all", f"{time.monotonic() - begin:.0f} s"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    target = where.resolve()

    print(f"\n{markdown_table(['step', 'time'], times)}\n\nPeak memory: {peak:.1f} GiB\n")
    print(speedup_tables(read_results(named.run.folder / RESULTS)))
    lines = usage(DrafterDescription.read(Path(publishing.to)), publishing.to, target.path)
    print(f"\nCard: {publishing.to}/README.md\n\nHow to use it:\n\n{lines}")


if __name__ == "__main__":
    run_step(main)
