"""Measure a drafter against plain decoding, prompt lookup, itself before finetuning, and baselines of the literature.

    drafter-trainer bench --config recipes/configs/gemma-3-270m/de-en.yaml --drafter runs/drafter
    drafter-trainer bench --config recipes/configs/gemma-3-270m/de-en.yaml --task story
    drafter-trainer bench --config recipes/configs/gemma-3-270m/de-en.yaml --engine vllm -- --dtype float32

Writes results.json, its report (report.md, report.html, plots/) and the completions of all methods (outputs.jsonl) to
--output_dir (default: RUN_FOLDER, or RUN_FOLDER/tasks/TASK), and prints the tables. Batch 1, methods interleaved
prompt by prompt. Completions are scored against references where the questions have some. An interrupted benchmark
continues with its current question. Options of the engine itself stand behind --.
"""

import functools
from pathlib import Path

from drafter_trainer.benchmark.report import report_tables
from drafter_trainer.cli.baselines import import_baselines
from drafter_trainer.cli.configuration import option_of, parse_arguments
from drafter_trainer.cli.launch import require_one_process
from drafter_trainer.cli.measuring_arguments import STOCK_LOOP, BenchmarkArguments
from drafter_trainer.cli.options import arguments_of, split_engine_words
from drafter_trainer.corpora.tasks import TASKS, TRANSLATION
from drafter_trainer.errors import InputError
from drafter_trainer.pipeline.benchmark import benchmark
from drafter_trainer.pipeline.engine_benchmark import benchmark_engine
from drafter_trainer.runs import finished_step


def choose_questions(bench: BenchmarkArguments, argv: list[str]) -> str:
    """Return the questions of the command line, else the task's own, else those of the configuration."""
    return option_of(argv, "--questions") or TASKS[bench.task].questions or bench.questions or "sample"


def main(argv: list[str]) -> None:
    """Run the step."""
    argv, words = split_engine_words(argv)
    (named, where, bench), _ = parse_arguments("bench", argv, __doc__)
    if words and not bench.engine:
        raise InputError(f"{words[0]} stands behind --, where an engine's options are: name the --engine too")
    require_one_process("a benchmark runs")
    run = named.run
    drafter = bench.drafter or str(run.published)
    if not bench.drafter and not Path(drafter).is_dir():
        raise InputError(f"there is no drafter in {drafter}: train one, or give --drafter FOLDER_OR_HUB_ID")
    beside = Path(drafter).parent / "pretrain"
    pretrained = str(beside) if Path(drafter).is_dir() and (beside / "config.json").is_file() else None
    out = Path(bench.output_dir or run.measured(bench.task, TRANSLATION))
    asked, target = choose_questions(bench, argv), where.resolve()
    if bench.engine:
        given = arguments_of(benchmark_engine, bench, where) | {
            "questions": asked,
            "languages": named.pair,
            "output_dir": bench.output_dir or out / "engines" / bench.engine,
        }
        given |= {"drafter": drafter, "target": target, "python": bench.engine_python, "options": words}
        print(report_tables(benchmark_engine(**given)))
        return
    baselines, build, trained = [name for name in bench.baselines if name != STOCK_LOOP], None, {}
    if baselines:
        literature = import_baselines()
        folders = {name: run.folder / name for name in literature.TRAINED}
        build = functools.partial(literature.build_baselines, baselines=baselines, folders=folders)
        trained = {
            name: finished_step(folder, f"train it with {name} first")["fingerprint"]
            for name, folder in folders.items()
            if name in baselines
        }
    given = arguments_of(benchmark, bench, where) | {
        "drafter": drafter,
        "target": target,
        "questions": asked,
        "output_dir": out,
        "languages": named.pair,
        "against": bench.others,
        "pretrained": pretrained,
        "stock_loop": STOCK_LOOP in bench.baselines,
        "other_methods": build,
        "other_inputs": trained,
    }
    print(report_tables(benchmark(**given)))
