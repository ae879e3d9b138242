"""Train an EAGLE layer on the target's own completions, a baseline of the benchmark.

    accelerate launch recipes/eagle.py --config recipes/configs/gemma-3-270m/de-en.yaml

Reads the rows in RUN_FOLDER/distill (or the folders of --data), as finetuning does. Leaves RUN_FOLDER/eagle, which
`drafter-trainer bench --baselines eagle` measures. The same command resumes an interrupted training.
"""

from drafter_trainer.cli.bench import import_baselines
from drafter_trainer.cli.launch import run_step


def main(argv: list[str]) -> None:
    """Run the step."""
    import_baselines("benchmarks.baselines.trainers").main("eagle", argv, __doc__)


if __name__ == "__main__":
    run_step(main)
