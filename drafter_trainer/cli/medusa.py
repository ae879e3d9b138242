"""Train Medusa heads on the target's own completions, for the benchmark to compare with.

    drafter-trainer medusa --config recipes/configs/gemma-3-270m/de-en.yaml

Reads RUN_FOLDER/distill (or the folders of --data), as finetuning does, and leaves RUN_FOLDER/medusa, which
`drafter-trainer bench --baselines medusa` measures. An interrupted training continues from its last checkpoint.
"""

from pathlib import Path

from transformers import PreTrainedConfig

from drafter_trainer.benchmark.baselines.medusa import MedusaHeads
from drafter_trainer.benchmark.baselines.trainers import MedusaTrainer, train_baseline
from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.cli.launch import report_step, require_one_process

HEADS = 3  # each guesses one more token ahead


def main(argv: list[str]) -> None:
    """Run the step."""
    (named, where, data, training), given = parse_arguments("medusa", argv, __doc__)
    require_one_process("Medusa heads are trained")
    training.output_dir = training.output_dir or str(named.run.folder / "medusa")
    rows = [Path(folder) for folder in data.data] or [named.run.rows]

    def make_heads(config: PreTrainedConfig) -> MedusaHeads:
        return MedusaHeads(HEADS, config.hidden_size)

    what = ("medusa", MedusaTrainer, make_heads, {"heads": HEADS})
    report_step(train_baseline(*what, where.resolve(), rows, training, given, where.dtype))
