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
"""Measure a drafter against plain decoding, prompt lookup, itself before finetuning, and rivals of the literature.

    accelerate launch recipes/bench.py --config recipes/configs/smollm2-135m/de-en.yaml --drafter runs/drafter
    accelerate launch recipes/bench.py --config recipes/configs/smollm2-135m/de-en.yaml --task story

Writes results.json with its report (report.md, report.html, plots/) to --out (default: RUN_FOLDER, or
RUN_FOLDER/tasks/TASK) and prints the tables. Batch 1, methods interleaved prompt by prompt. Where questions have
references, answers are scored against them. Interrupted, it goes on with the question that it was at.
"""

from pathlib import Path

from accelerate import PartialState
from transformers import AutoModelForCausalLM

from drafter_trainer.benchmark.arguments import BenchmarkArguments
from drafter_trainer.benchmark.journal import read_journal
from drafter_trainer.benchmark.measure import Setting, measure
from drafter_trainer.benchmark.methods import DRAFTER, build_methods
from drafter_trainer.benchmark.outputs import FILE_NAME, write_outputs
from drafter_trainer.benchmark.page import write_report
from drafter_trainer.benchmark.quality import add_language_share, add_quality
from drafter_trainer.benchmark.report import report_tables
from drafter_trainer.benchmark.results import (
    SCHEMA_VERSION,
    add_finetuning,
    read_results,
    summarise_run,
    write_results,
)
from drafter_trainer.benchmark.rivals import TRAINED, build_rivals
from drafter_trainer.configuration import parse_arguments
from drafter_trainer.corpora.questions import hash_questions, load_questions
from drafter_trainer.corpora.tasks import TRANSLATION, Task
from drafter_trainer.drafters.load import describe_drafter, identify_drafter, load_drafter
from drafter_trainer.errors import InputError
from drafter_trainer.languages import get_pair
from drafter_trainer.launch import report_step, require_one_process, run_recipe
from drafter_trainer.provenance import collect_provenance
from drafter_trainer.steps import Step, finished_step

TASKS = Path(__file__).parent / "configs" / "tasks"
JOURNAL = "journal.jsonl"


def main(argv: list[str]) -> None:
    (run, where, bench), given = parse_arguments("bench", argv, __doc__, TASKS)
    pair = get_pair(run.pair)
    require_one_process("a benchmark runs")
    drafter_path = bench.drafter or str(run.folder / "drafter")
    if not bench.drafter and not Path(drafter_path).is_dir():
        raise InputError(f"there is no drafter in {drafter_path}: train one, or give --drafter FOLDER_OR_HUB_ID")
    description = describe_drafter(drafter_path)
    task = Task(bench.task, tuple(bench.categories), bench.turns)
    questions = load_questions(bench.questions, pair, bench.max_questions, task)
    target = where.resolve()
    pretrained_path = bench.pretrained_drafter
    beside = Path(drafter_path).parent / "pretrain"
    if pretrained_path is None and Path(drafter_path).is_dir() and (beside / "config.json").is_file():
        pretrained_path = str(beside)
    out = Path(bench.out or (run.folder if task.name == TRANSLATION else run.folder / "tasks" / task.name))
    inputs = {
        "target": target.identity,
        "drafter": identify_drafter(drafter_path),
        "pretrained": identify_drafter(pretrained_path) if pretrained_path else "none",
        "questions": hash_questions(questions),
    }
    inputs |= {f"against {name}": identify_drafter(place) for name, place in bench.others.items()}
    rivals = {
        "medusa": Path(bench.medusa or run.folder / "medusa"),
        "eagle": Path(bench.eagle or run.folder / "eagle"),
    }
    for rival in (rival for rival in TRAINED if rival in bench.rivals):
        advice = f"run {rival}.py first, or give --{rival} FOLDER"
        inputs[rival] = finished_step(rivals[rival], advice)["fingerprint"]
    step = Step(out / "bench", "bench", given, inputs)
    if step.is_finished():
        keep_outputs(bench, step, out)
        print(report_tables(read_results(out / "results.json")))
        return report_step(step, reused=True)

    chat = target.load_chat()
    tokenizer = chat.tokenizer
    target_model = target.load_model(where.dtype, PartialState().device)
    drafter = load_drafter(drafter_path, target_model, tokenizer, follow_clock=bench.follow_clock)
    pretrained = None
    if pretrained_path:
        pretrained = AutoModelForCausalLM.from_pretrained(pretrained_path, dtype=target_model.dtype)
        pretrained.to(target_model.device).eval()
    others = {
        name: load_drafter(place, target_model, tokenizer, follow_clock=bench.follow_clock)
        for name, place in bench.others.items()
    }
    stock_draft_length = description.draft_length if bench.stock_loop else None
    described_drafters = {name: describe_drafter(place) for name, place in bench.others.items()}
    described_drafters[DRAFTER] = description
    methods = build_methods(
        drafter, pretrained, bench.prompt_lookup_tokens, bench.without, stock_draft_length, bench.alone, others
    )
    # The drafter stays the last of the table.
    methods[-1:-1] = build_rivals(bench, target, target_model, rivals)
    settings = [
        Setting(temperature, seed, bench.max_new_tokens)
        for temperature in bench.temperatures
        for seed in (bench.seeds if temperature > 0 else [0])
    ]
    with step:
        runs = []
        for setting in settings:
            asked = questions if setting.temperature == 0 else questions[: bench.max_sampling_questions]
            records = measure(target_model, chat, asked, methods, setting, step.folder / JOURNAL, bench.repeats)
            described = {
                "pair": str(pair),
                "task": task.name,
                "draft_length": drafter.generation_config.num_assistant_tokens,
                "repeats": bench.repeats,
                "follow_clock": bench.follow_clock,
                "dtype": str(target_model.dtype).removeprefix("torch."),
                "questions": {
                    "source": Path(bench.questions).name,
                    "count": len(asked),
                    "sha256": hash_questions(asked),
                },
            }
            runs.append(summarise_run(records, methods, setting, described))
            add_finetuning(runs[-1], described_drafters)
            add_quality(runs[-1], records, asked, pair.target)
            add_language_share(runs[-1], records, pair.target)
        results = {
            "schema_version": SCHEMA_VERSION,
            "provenance": collect_provenance()
            | {
                "target": target.identity,
                "drafter": description.name,
                "drafter_revision": inputs["drafter"],
                "drafter_fingerprint": description.fingerprint(),
            },
            "runs": runs,
        }
        write_results(results, out / "results.json")
        write_report(results, out)
    keep_outputs(bench, step, out)
    print(report_tables(results))
    if pretrained is None:
        print("The drafter before finetuning is not in the table: name it with --pretrained_drafter.")
    report_step(step)


def keep_outputs(bench: BenchmarkArguments, step: Step, out: Path) -> None:
    if bench.save_outputs:
        write_outputs(read_journal(step.folder / JOURNAL), out / FILE_NAME)


if __name__ == "__main__":
    run_recipe(main)
