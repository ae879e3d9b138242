"""Measure a drafter against plain decoding, prompt lookup, the drafter before finetuning, and other baselines.

    drafter-trainer bench --config recipes/configs/gemma-3-270m/de-en.yaml --drafter runs/drafter
    drafter-trainer bench --config recipes/configs/gemma-3-270m/de-en.yaml --task story
    drafter-trainer bench --config recipes/configs/gemma-3-270m/de-en.yaml --baselines lookup:5 alone:network
    drafter-trainer bench --config recipes/configs/gemma-3-270m/de-en.yaml --engine vllm -- --dtype float32

Writes results.json, its report (report.md, report.html, plots/) and the completions of all methods (outputs.jsonl) to
--output_dir (default: RUN_FOLDER, or RUN_FOLDER/tasks/TASK), and prints the tables. The batch size is 1, and all
methods complete a question before the next one. Completions are scored if the questions have references. The same
command resumes an interrupted benchmark. Options of the engine itself follow after --.
"""

import functools
import importlib
import sys
from pathlib import Path
from types import ModuleType

from drafter_trainer.benchmark.report import report_tables
from drafter_trainer.cli.configuration import option_of, parse_arguments
from drafter_trainer.cli.launch import require_one_process
from drafter_trainer.cli.measuring_arguments import BenchmarkArguments
from drafter_trainer.cli.options import arguments_of, split_engine_options
from drafter_trainer.corpora.tasks import TASKS, TRANSLATION
from drafter_trainer.errors import InputError
from drafter_trainer.pipeline.benchmark import benchmark
from drafter_trainer.pipeline.engine_benchmark import benchmark_engine
from drafter_trainer.runs import finished_step

_CLONE = Path(__file__).parents[2]


def import_baselines(module: str = "benchmarks.baselines") -> ModuleType:
    """Import the baselines of the literature, which only a clone of the repository has."""
    if not (_CLONE / "benchmarks" / "baselines").is_dir():
        raise InputError(
            "lookahead, medusa, eagle and early_exit are not in the installed package: clone the repository, and run "
            "pip install --editable . in the clone"
        )
    if str(_CLONE) not in sys.path:
        sys.path.append(str(_CLONE))
    return importlib.import_module(module)


def choose_questions(bench: BenchmarkArguments, argv: list[str]) -> str:
    """Return the questions of the command line, otherwise those of the task, otherwise those of the configuration."""
    return option_of(argv, "--questions") or TASKS[bench.task].questions or bench.questions or "sample"


def main(argv: list[str]) -> None:
    """Run the step."""
    argv, engine_options = split_engine_options(argv)
    (named, where, bench), _ = parse_arguments("bench", argv, __doc__)
    if engine_options and not bench.engine:
        raise InputError(f"{engine_options[0]} follows --, so it is an option of an engine: give --engine too")
    require_one_process("a benchmark runs")
    run, drafter = named.run, bench.drafter or str(named.run.published)
    if not bench.drafter and not Path(drafter).is_dir():
        raise InputError(f"there is no drafter in {drafter}: train one, or give --drafter FOLDER_OR_HUB_ID")
    out = Path(bench.output_dir or run.measured(bench.task, TRANSLATION))
    given = bench.limits | bench.compared | {"drafter": drafter, "target": where.resolve(), "languages": named.pair}
    given |= {"questions": choose_questions(bench, argv), "output_dir": out}
    if bench.engine:
        given |= {"python": bench.engine_python, "options": engine_options}
        if not bench.output_dir:
            given["output_dir"] = out / "engines" / bench.engine
        print(report_tables(benchmark_engine(**arguments_of(benchmark_engine, bench, where, given))))
        return
    pretrained = Path(drafter).parent / "pretrain"
    if Path(drafter).is_dir() and (pretrained / "config.json").is_file():
        given["pretrained"] = str(pretrained)
    if bench.literature:
        package = import_baselines()
        folders = {name: run.folder / name for name in package.TRAINED if name in bench.literature}
        given["other_inputs"] = {
            name: finished_step(folder, f"train it with recipes/{name}.py first")["fingerprint"]
            for name, folder in folders.items()
        }
        given["other_methods"] = functools.partial(
            package.build_baselines, baselines=bench.literature, folders=folders
        )
    print(report_tables(benchmark(**arguments_of(benchmark, bench, where, given))))
