"""Measure a drafter against plain decoding, prompt lookup, itself before finetuning, and baselines of the literature.

    drafter-trainer bench --config recipes/configs/gemma-3-270m/de-en.yaml --drafter runs/drafter
    drafter-trainer bench --config recipes/configs/gemma-3-270m/de-en.yaml --task story
    drafter-trainer bench --config recipes/configs/gemma-3-270m/de-en.yaml --engine vllm

Writes results.json with its report (report.md, report.html, plots/) to --out (default: RUN_FOLDER, or
RUN_FOLDER/tasks/TASK) and prints the tables. Batch 1, methods interleaved prompt by prompt. Completions are scored
against references where the questions have some. An interrupted benchmark continues with its current question.
"""

import functools
import shlex
from pathlib import Path

from drafter_trainer.benchmark.baselines import TRAINED, build_baselines
from drafter_trainer.benchmark.journal import read_journal
from drafter_trainer.benchmark.outputs import FILE_NAME, write_outputs
from drafter_trainer.benchmark.report import report_tables
from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.cli.launch import report_folder, require_one_process
from drafter_trainer.corpora.tasks import TRANSLATION
from drafter_trainer.errors import InputError
from drafter_trainer.pipeline.benchmark import JOURNAL, benchmark
from drafter_trainer.pipeline.engine_benchmark import benchmark_engine
from drafter_trainer.runs import finished_step, read_step

TASKS = Path(__file__).with_name("tasks")


def main(argv: list[str]) -> None:
    """Run the step."""
    (named, where, bench), _ = parse_arguments("bench", argv, __doc__, TASKS)
    require_one_process("a benchmark runs")
    run = named.run
    drafter = bench.drafter or str(run.published)
    if not bench.drafter and not Path(drafter).is_dir():
        raise InputError(f"there is no drafter in {drafter}: train one, or give --drafter FOLDER_OR_HUB_ID")
    pretrained, beside = bench.pretrained_drafter, Path(drafter).parent / "pretrain"
    if pretrained is None and Path(drafter).is_dir() and (beside / "config.json").is_file():
        pretrained = str(beside)
    out = Path(bench.out or run.measured(bench.task, TRANSLATION))
    if bench.engine:
        options = ("questions", "engine", "task", "max_questions", "max_new_tokens", "requests_at_once")
        options += ("prompt_lookup_tokens", "target_gguf")
        results = benchmark_engine(
            drafter,
            where.resolve(),
            output_dir=bench.out or out / "engines" / bench.engine,
            languages=named.pair,
            dtype=where.dtype,
            python=bench.engine_python,
            options=shlex.split(bench.engine_options),
            **{name: getattr(bench, name) for name in options},
        )
        print(report_tables(results))
        return
    baselines = {name: Path(getattr(bench, name) or run.folder / name) for name in TRAINED}
    trained = {
        name: finished_step(baselines[name], f"train it with {name} first, or give --{name} FOLDER")["fingerprint"]
        for name in TRAINED
        if name in bench.baselines
    }
    before = read_step(out / "bench")
    options = ("questions", "task", "categories", "turns", "max_questions", "max_sampling_questions", "temperatures")
    options += ("seeds", "max_new_tokens", "repeats", "prompt_lookup_tokens", "without", "alone", "stock_loop")
    results = benchmark(
        drafter,
        where.resolve(),
        output_dir=out,
        languages=named.pair,
        against=bench.others,
        pretrained=pretrained,
        follow_clock=bench.follow_clock,
        dtype=where.dtype,
        other_methods=functools.partial(
            build_baselines,
            baselines=bench.baselines,
            folders=baselines,
            early_exit_layer=bench.early_exit_layer,
            early_exit_length=bench.early_exit_length,
        ),
        other_inputs=trained,
        **{name: getattr(bench, name) for name in options},
    )
    if bench.save_outputs:
        write_outputs(read_journal(out / "bench" / JOURNAL), out / FILE_NAME)
    print(report_tables(results))
    if pretrained is None:
        print("The drafter before finetuning is not in the table: name it with --pretrained_drafter.")
    report_folder(out / "bench", before)
