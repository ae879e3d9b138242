"""Make the fastest drafter for a language: try every strategy, measure them all, publish the best.

    make drafter LANG=oci TEXT=file:occitan.txt
    drafter-trainer language --config recipes/configs/gemma-3-270m/language.yaml --pair oci --corpus file:occitan.txt

The result is a published drafter with a card, made from text in the language of the completions. The strategies are
from arXiv 2605.30580: an n-gram table, and networks finetuned on the target's translations, on text, and on both. A
hybrid combines the best network with the table and lookup. Each strategy is tuned on held-out translations and
stories. The strategy that is fastest over both tasks is published. The benchmarks of both tasks show all strategies.

Each step is printed as a command before it runs. Finished steps are not repeated.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from drafter_trainer.atomic import write_json
from drafter_trainer.benchmark.report import markdown_table, speedup_tables
from drafter_trainer.cli.arguments import LanguageArguments
from drafter_trainer.cli.configuration import option_of, parse_arguments
from drafter_trainer.cli.launch import call_step, require_one_process
from drafter_trainer.drafters.loop.sources import NETWORK, NGRAM, SOURCES
from drafter_trainer.errors import InputError
from drafter_trainer.results import RESULTS, read_results
from drafter_trainer.runs import finished_step, read_step

PILOT = 32  # prompts that are completed to measure the time of a prompt; fewer would leave a batch half empty
TEXTS = 1000  # documents that the target scores
HELD_OUT = 20  # number of held-out translations, and of held-out documents
HELD_OUT_STORIES = 12
STORY = "story"
FILE_NAME = "strategies.json"  # next to a card: the cost and the speedup of each strategy
HYBRID = "hybrid"


class Strategy(NamedTuple):
    """A kind of drafter: its name, its draft sources, and the folders of rows that its network is finetuned on."""

    method: str
    sources: tuple[str, ...]
    rows: tuple[str, ...] = ()


# The first four are the strategies of arXiv 2605.30580. The hybrid has the best of their networks.
STRATEGIES = {
    "table": Strategy("n-gram table", (NGRAM,)),
    "task": Strategy("network, completions", (NETWORK,), ("distill",)),
    "text": Strategy("network, text", (NETWORK,), ("text",)),
    "both": Strategy("network, completions and text", (NETWORK,), ("distill", "text")),
    HYBRID: Strategy("hybrid", SOURCES),
}


def main(argv: list[str]) -> None:
    """Run the step."""
    (named, language, publishing), given = parse_arguments("language", argv, __doc__)
    require_one_process("all steps run")
    publishing.destination().check()
    run = named.run
    config = option_of(argv, "--config")
    if config is None:
        raise InputError("no configuration: give --config FILE, which every step reads")
    folders = {name: run.folder if name == HYBRID else run.folder / "strategies" / name for name in STRATEGIES}
    questions = language.questions or language.prompts
    kept_out = ["--evaluation_questions", *dict.fromkeys(("sample", questions))]

    def step(name: str, folder: Path, *options: str | int | Path) -> None:
        common = ["--config", config, "--pair", named.pair, "--run_folder", folder, "--drafter_name", run.name]
        call_step(name, [*common, *options])

    collect_rows(step, run.folder, language, kept_out)
    for name, folder in folders.items():
        if STRATEGIES[name].rows:
            step("finetune", folder, "--data", *(run.folder / part for part in STRATEGIES[name].rows))
            for checkpoint in (folder / "finetune").glob("checkpoint-*"):  # most of the run's disk space
                shutil.rmtree(checkpoint)
    found: dict[str, dict[str, Any]] = {}
    rows, costs = ["--data", run.folder / "distill", run.folder / "stories"], []
    for name, folder in folders.items():
        strategy, trained = STRATEGIES[name], folder
        text = ["--corpus", *language.corpus, *kept_out] if NGRAM in strategy.sources else []
        if name == HYBRID:
            networks = [other for other in found if STRATEGIES[other].rows]
            network = max(networks, key=lambda other: found[other]["speedup_on_validation"])
            trained = folders[network]
        drafter = ["--drafter", trained / "finetune"] if NETWORK in strategy.sources else []
        step("tune", folder, *rows, *costs, *drafter, *text, "--sources", *strategy.sources)
        found[name] = describe(strategy, folder, trained)
        # All strategies use the same times of the target, so that noise does not decide between them.
        costs = costs or ["--costs", folder / "drafter"]
    found[HYBRID]["network"] = network
    best = max(found, key=lambda name: (found[name]["speedup_on_validation"], name == HYBRID))
    # The published drafter describes only its own rows.
    collected = {rows: read_step(run.folder / rows)["facts"] for rows in ("text", "distill")}
    write_json(run.folder / FILE_NAME, {"published": best, "strategies": found, "collected": collected})
    print(f"\n{strategies_table(found, best)}")

    others = [f"{STRATEGIES[name].method}={folder / 'drafter'}" for name, folder in folders.items() if name != best]
    measured = ["--drafter", folders[best] / "drafter", "--baselines", *others]
    step("bench", folders[best], *measured, "--questions", questions)
    step("bench", folders[best], *measured, "--task", STORY)
    options = {key: value for key, value in given.items() if hasattr(publishing, key) and key != "sources"}
    step("publish", folders[best], *(word for key, value in options.items() for word in (f"--{key}", value)))
    if publishing.destination().folder and not publishing.dry_run:  # the gallery reads the file there
        shutil.copyfile(run.folder / FILE_NAME, publishing.destination().folder / FILE_NAME)
    for folder in (folders[best], folders[best] / "tasks" / STORY):
        print(f"\n{speedup_tables(read_results(folder / RESULTS))}")


def collect_rows(step: Callable[..., None], folder: Path, language: LanguageArguments, kept_out: list[str]) -> None:
    """Let the target score text, complete translations for some minutes, and complete held-out stories."""

    def distill(rows: str, corpora: list[str], samples: int, held_out: int, *options: str) -> None:
        sizes = ["--max_samples", samples, held_out]
        step("distill", folder, "--output_dir", folder / rows, "--corpus", *corpora, *sizes, *kept_out, *options)

    # Text first: empty text, or text in another language, is rejected immediately.
    distill("text", language.corpus, TEXTS, HELD_OUT, "--engine", "text")
    distill("pilot", [language.prompts], PILOT, 1)
    distill("distill", [language.prompts], prompts_within(language.minutes, folder), HELD_OUT)
    distill("stories", ["stories"], 1, HELD_OUT_STORIES, "--temperatures", "0")


def prompts_within(minutes: int, folder: Path) -> int:
    """Return the number of prompts that the target completes in some minutes, by the pilot; it is kept in a file."""
    path = folder / "plan.json"
    if path.is_file():
        plan = json.loads(path.read_text(encoding="utf-8"))
        if plan["minutes"] == minutes:
            return plan["prompts"]
    seconds = finished_step(folder / "pilot", "run this step again")["seconds"]
    prompts = max(PILOT, int(60 * minutes * (PILOT + 1) / seconds))
    write_json(path, {"minutes": minutes, "prompts": prompts})
    return prompts


def describe(strategy: Strategy, folder: Path, trained: Path) -> dict[str, Any]:
    """Return the size and the times of a strategy, and the speedup that tuning expects."""
    finetuned, tuned = read_step(trained / "finetune"), read_step(folder / "tune")
    return {
        "method": strategy.method,
        "speedup_on_validation": tuned["facts"]["speedup_on_validation"],
        "bytes": sum(path.stat().st_size for path in (folder / "drafter").glob("*.safetensors")),
        "finetune_seconds": finetuned["seconds"] if finetuned else 0.0,
        "tune_seconds": tuned["seconds"],
    }


def strategies_table(found: dict[str, dict[str, Any]], best: str) -> str:
    """Render the table of strategies, in which the published one is marked."""
    rows = [
        [
            facts["method"] + " *" * (name == best),
            f"{facts['speedup_on_validation']:.2f}x",
            f"{facts['bytes'] / 2**20:.1f}",
            f"{facts['finetune_seconds']:.0f} s",
        ]
        for name, facts in found.items()
    ]
    header = ["strategy (* is published)", "speedup on both tasks, replayed", "MiB", "finetuning"]
    return markdown_table(header, rows)
