# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["drafter_trainer==0.1.0"]
#
# [[tool.uv.index]]
# name = "wheels"
# url = "/wheels"
# format = "flat"
# explicit = true
#
# [tool.uv.sources]
# drafter_trainer = { index = "wheels" }
#
# [tool.hf-jobs]
# secrets = ["HF_TOKEN"]
# volumes = ["dist:/wheels"]
# ///
"""Measure a drafter against plain decoding, prompt lookup, itself before finetuning, and baselines of the literature.

    accelerate launch recipes/bench.py --config recipes/configs/gemma-3-270m/de-en.yaml --drafter runs/drafter
    accelerate launch recipes/bench.py --config recipes/configs/gemma-3-270m/de-en.yaml --task story
    accelerate launch recipes/bench.py --config recipes/configs/gemma-3-270m/de-en.yaml --engine vllm

Writes results.json with its report (report.md, report.html, plots/) to --out (default: RUN_FOLDER, or
RUN_FOLDER/tasks/TASK) and prints the tables. Batch 1, methods interleaved prompt by prompt. Where questions have
references, answers are scored against them. Interrupted, it goes on with the question that it was at.
"""

import functools
import shlex
from pathlib import Path

from drafter_trainer.benchmark.baselines import TRAINED, build_baselines
from drafter_trainer.benchmark.journal import read_journal
from drafter_trainer.benchmark.outputs import FILE_NAME, write_outputs
from drafter_trainer.benchmark.report import report_tables
from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.cli.launch import report_folder, require_one_process, run_recipe
from drafter_trainer.corpora.tasks import TRANSLATION
from drafter_trainer.errors import InputError
from drafter_trainer.pipeline.benchmark import JOURNAL, benchmark
from drafter_trainer.pipeline.engine_benchmark import benchmark_engine
from drafter_trainer.runs import finished_step, read_step

TASKS = Path(__file__).parent / "configs" / "tasks"


def main(argv: list[str]) -> None:
    (run, where, bench), _ = parse_arguments("bench", argv, __doc__, TASKS)
    require_one_process("a benchmark runs")
    drafter = bench.drafter or str(run.folder / "drafter")
    if not bench.drafter and not Path(drafter).is_dir():
        raise InputError(f"there is no drafter in {drafter}: train one, or give --drafter FOLDER_OR_HUB_ID")
    pretrained, beside = bench.pretrained_drafter, Path(drafter).parent / "pretrain"
    if pretrained is None and Path(drafter).is_dir() and (beside / "config.json").is_file():
        pretrained = str(beside)
    out = Path(bench.out or (run.folder if bench.task == TRANSLATION else run.folder / "tasks" / bench.task))
    if bench.engine:
        results = benchmark_engine(
            drafter,
            where.resolve(),
            bench.questions,
            engine=bench.engine,
            output_dir=bench.out or out / "engines" / bench.engine,
            languages=run.pair,
            task=bench.task,
            max_questions=bench.max_questions,
            max_new_tokens=bench.max_new_tokens,
            requests_at_once=bench.requests_at_once,
            prompt_lookup_tokens=bench.prompt_lookup_tokens,
            dtype=where.dtype,
            target_gguf=bench.target_gguf,
            python=bench.engine_python,
            options=shlex.split(bench.engine_options),
        )
        print(report_tables(results))
        return
    baselines = {name: Path(getattr(bench, name) or run.folder / name) for name in TRAINED}
    trained = {
        name: finished_step(baselines[name], f"run {name}.py first, or give --{name} FOLDER")["fingerprint"]
        for name in TRAINED
        if name in bench.baselines
    }
    before = read_step(out / "bench")
    results = benchmark(
        drafter,
        where.resolve(),
        bench.questions,
        output_dir=out,
        languages=run.pair,
        task=bench.task,
        categories=bench.categories,
        turns=bench.turns,
        max_questions=bench.max_questions,
        max_sampling_questions=bench.max_sampling_questions,
        temperatures=bench.temperatures,
        seeds=bench.seeds,
        max_new_tokens=bench.max_new_tokens,
        repeats=bench.repeats,
        prompt_lookup_tokens=bench.prompt_lookup_tokens,
        against=bench.others,
        pretrained=pretrained,
        without=bench.without,
        alone=bench.alone,
        stock_loop=bench.stock_loop,
        follow_clock=bench.follow_clock,
        dtype=where.dtype,
        other_methods=functools.partial(build_baselines, bench, folders=baselines),
        other_inputs=trained,
    )
    if bench.save_outputs:
        write_outputs(read_journal(out / "bench" / JOURNAL), out / FILE_NAME)
    print(report_tables(results))
    if pretrained is None:
        print("The drafter before finetuning is not in the table: name it with --pretrained_drafter.")
    report_folder(out / "bench", before)


if __name__ == "__main__":
    run_recipe(main)
