"""Train Medusa heads on the target's own completions, for the benchmark to compare with.

    drafter-trainer medusa --config recipes/configs/gemma-3-270m/de-en.yaml

Reads RUN_FOLDER/distill (or the folders of --data), as finetuning does, and leaves RUN_FOLDER/medusa, which
`drafter-trainer bench --baselines medusa` measures. An interrupted training continues from its last checkpoint.
"""

from drafter_trainer.cli.baselines import run_baseline


def main(argv: list[str]) -> None:
    """Run the step."""
    run_baseline("medusa", argv, __doc__)
