"""Adapt a published drafter to a finetuned or quantized version of its target, in one command.

    drafter-trainer adapt --drafter org/target-drafter-de --target org/target-finetuned --prompts prompts.jsonl \\
      --output_dir runs/adapted

The target completes the prompts; the drafter is trained further on the completions and tuned on this machine. Writes
OUTPUT_DIR/rows and OUTPUT_DIR/drafter; `drafter_trainer.publish("OUTPUT_DIR/drafter")` publishes it. After an
interruption, the same command continues.
"""

from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.cli.launch import require_one_process
from drafter_trainer.cli.options import arguments_of
from drafter_trainer.pipeline.adapt import TRAINING, adapt
from drafter_trainer.training.arguments import DrafterTrainingArguments


def main(argv: list[str]) -> None:
    """Run the step."""
    (options,), _ = parse_arguments("adapt", argv, __doc__)
    require_one_process("adapting runs")
    chosen = {"learning_rate": options.learning_rate, "num_train_epochs": options.num_train_epochs}
    arguments = DrafterTrainingArguments(**TRAINING | chosen)
    given = {"target": options.target_model, "max_prompts": options.max_samples, "arguments": arguments}
    found = adapt(**arguments_of(adapt, options) | given)
    print(f"adapted: {found.drafter}, expected speedup {found.speedup:.2f}x")
