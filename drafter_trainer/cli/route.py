"""Measure the router between drafters of several pairs against always knowing the language.

    drafter-trainer route --config recipes/configs/gemma-3-270m/common.yaml \
      --drafters runs/gemma-3-270m-drafter-{de,fr,ru,ja,zh}-en/drafter --questions mixed.jsonl

The pairs' questions take turns, and each is asked with plain decoding, with the drafter of its pair, and with the
router, which is not told the pair. Both draft with the same drafters. Writes results.json with its report to --out and
prints the tables, for all pairs together and for each alone. An interrupted run continues with its current question.
"""

from pathlib import Path

from drafter_trainer.benchmark.report import report_tables
from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.cli.launch import report_step, require_one_process
from drafter_trainer.pipeline.route import benchmark_router
from drafter_trainer.results import RESULTS, read_results


def main(argv: list[str]) -> None:
    """Run the step."""
    (where, route), given = parse_arguments("route", argv, __doc__)
    require_one_process("a benchmark runs")
    step = benchmark_router(
        where.resolve(),
        route.drafters,
        route.questions,
        output_dir=Path(route.out),
        max_questions=route.max_questions,
        max_new_tokens=route.max_new_tokens,
        repeats=route.repeats,
        dtype=where.dtype,
        settings=given,
    )
    print(report_tables(read_results(Path(route.out) / RESULTS)))
    report_step(step)
