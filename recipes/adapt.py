"""Adapt a published drafter to a finetuned or quantized version of its target.

    python recipes/adapt.py --drafter org/target-drafter-de --target org/target-finetuned --prompts prompts.jsonl \
      --output_dir runs/adapted

The same as `drafter-trainer adapt`; --help lists the options.
"""

from drafter_trainer.cli.adapt import main
from drafter_trainer.cli.launch import run_step

if __name__ == "__main__":
    run_step(main)
