"""Forecast the speedup of a drafter on this machine, before it is trained.

    drafter-trainer predict --config recipes/configs/gemma-3-270m/de-en.yaml

Times plain decoding, the target's forward passes over 1 to 17 tokens, and a step of a drafter of the configured shape.
Prints the expected speedup at each acceptance, the best draft length and the break-even, and writes them to
RUN_FOLDER/predict.

With --drafter, the step also forecasts the benchmark of this trained drafter. It replays the held-out completions of
RUN_FOLDER/distill, or with --questions the target's completions of these questions.
"""

from pathlib import Path

from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.cli.launch import require_one_process
from drafter_trainer.cli.options import arguments_of
from drafter_trainer.pipeline.predict import predict


def main(argv: list[str]) -> None:
    """Run the step."""
    (named, where, shape, prediction), _ = parse_arguments("predict", argv, __doc__)
    require_one_process("a forecast is made")
    given = arguments_of(predict, prediction, where) | {
        "languages": named.pair,
        "output_dir": Path(prediction.output_dir or named.run.folder / "predict"),
        "shape": shape.widths() | {"draft_vocabulary": prediction.draft_vocabulary},
        "rows": Path(prediction.data or named.run.rows),
    }
    print(predict(where.resolve(), **given))
