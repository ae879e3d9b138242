"""Adapt a published drafter to a finetuned or quantized version of its target, in one command.

    drafter-trainer adapt --drafter org/target-drafter-de --target org/target-finetuned --prompts prompts.jsonl \
      --output_dir runs/adapted

The target completes the prompts, the drafter is trained further on its completions, and tuned on this machine. Leaves
OUTPUT_DIR/rows and OUTPUT_DIR/drafter; `drafter_trainer.publish("OUTPUT_DIR/drafter")` publishes it. Interrupted, the
same command continues.
"""

from pathlib import Path

from drafter_trainer.cli.configuration import simple_parser
from drafter_trainer.cli.launch import require_one_process
from drafter_trainer.pipeline.adapt import TRAINING, adapt
from drafter_trainer.training.arguments import DrafterTrainingArguments


def main(argv: list[str]) -> None:
    """Run the step."""
    parser = simple_parser("adapt", __doc__)
    parser.add_argument("--drafter", required=True, help="Published drafter: Hub id or folder")
    parser.add_argument("--target", required=True, help="Target to adapt to: Hub id or folder")
    parser.add_argument("--prompts", required=True, help="Prompts or conversations: Hub dataset, or a file")
    parser.add_argument("--output_dir", required=True, type=Path, help="Folder of the rows and the drafter")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.7], help="(default: 0.0 0.7)")
    parser.add_argument("--max_prompts", type=int, help="Maximum number of prompts for training (default: all)")
    parser.add_argument("--max_new_tokens", type=int, default=1024, help="Tokens of a completion (default: 1024)")
    parser.add_argument("--batch_size", type=int, default=32, help="Prompts completed at once (default: 32)")
    parser.add_argument(
        "--learning_rate",
        type=float,
        default=TRAINING["learning_rate"],
        help="Peak of the learning rate (default: 3e-5)",
    )
    parser.add_argument(
        "--num_train_epochs",
        type=float,
        default=TRAINING["num_train_epochs"],
        help="Epochs over the rows (default: 1)",
    )
    parser.add_argument("--dtype", default="auto", help="Dtype of the target (default: that of its checkpoint)")
    options = parser.parse_args(argv)
    require_one_process("adapting runs")
    chosen = {"learning_rate": options.learning_rate, "num_train_epochs": options.num_train_epochs}
    found = adapt(
        options.drafter,
        options.target,
        options.prompts,
        options.output_dir,
        temperatures=options.temperatures,
        max_prompts=options.max_prompts,
        max_new_tokens=options.max_new_tokens,
        batch_size=options.batch_size,
        arguments=DrafterTrainingArguments(**TRAINING | chosen),
        dtype=options.dtype,
    )
    print(f"adapted: {found.drafter}, expected speedup {found.speedup:.2f}x")
