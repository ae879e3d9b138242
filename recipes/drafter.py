"""Make the drafter that is fastest for a language: try each way to one, measure them all, publish the best.

    make drafter LANG=oci TEXT=file:occitan.txt
    recipes/drafter.py --config recipes/configs/smollm2-135m/language.yaml --pair oci --text file:occitan.txt

Goes from text in the language of the answers to a published drafter with a card. The ways are those of arXiv
2605.30580, each alone: an n-gram table, and networks finetuned on the target's translations, on text, and on both.
The last network, the table and lookup together are the hybrid. Each is tuned on held-out translations and stories,
and the one whose slower task is fastest there is published; the benchmark of both tasks has all of them in its table.

Every step is a command that you could type yourself; it is printed before it runs. Finished steps are not done again.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from drafter_trainer.atomic import write_whole
from drafter_trainer.benchmark.report import markdown_table, speedup_tables
from drafter_trainer.benchmark.results import read_results
from drafter_trainer.benchmark.strategies import HYBRID, STRATEGIES
from drafter_trainer.configuration import option_of, parse_arguments
from drafter_trainer.drafters.loop.policy import NGRAM, SOURCES
from drafter_trainer.errors import InputError
from drafter_trainer.hub.publish import check_destination
from drafter_trainer.launch import require_one_process, run_recipe
from drafter_trainer.steps import finished_step

RECIPES = Path(__file__).parent
PILOT = 16  # prompts that are answered to learn how long one takes
HELD_OUT = 20  # of translations and of text
HELD_OUT_STORIES = 12
STORY = "story"


def main(argv: list[str]) -> None:
    (run, language, publishing), given = parse_arguments("drafter", argv, __doc__)
    require_one_process("all steps run")
    check_destination(publishing.to)
    config = option_of(argv, "--config")
    if config is None:
        raise InputError("no --config FILE: each step reads it")
    folder = run.folder
    places = {name: folder if name == HYBRID else folder / "strategies" / name for name in STRATEGIES}
    drafters = {name: place / "drafter" for name, place in places.items()}
    questions = language.questions or language.prompts
    kept_out = ["--evaluation_questions", *dict.fromkeys(("sample", questions))]

    def step(recipe: str, place: Path, *options: str | int | Path) -> None:
        command = [sys.executable, str(RECIPES / f"{recipe}.py"), "--config", config, "--pair", run.pair]
        command += ["--run_folder", str(place), "--drafter_name", run.drafter_name, *map(str, options)]
        print(f"\n$ {shlex.join(command)}", flush=True)
        status = subprocess.run(command, check=False).returncode
        if status:
            sys.exit(status)

    def distil(rows: str, corpus: str, samples: int, held_out: int, *options: str) -> None:
        sizes = ["--max_samples", samples, "--max_validation_samples", held_out]
        output = ["--output_dir", folder / rows]
        step("distill", folder, *output, "--corpus", corpus, *sizes, *kept_out, *options)

    # Text first: what is none, or of another language, is refused before anything else is done.
    distil("text", language.text, language.text_samples, HELD_OUT, "--engine", "text")
    distil("pilot", language.prompts, PILOT, 1)
    distil("distill", language.prompts, prompts_within(language.minutes, folder), HELD_OUT)
    distil("stories", "stories", 1, HELD_OUT_STORIES, "--temperatures", "0")

    chosen = {
        name: ["--sources", *strategy.sources] if strategy.sources != SOURCES else []
        for name, strategy in STRATEGIES.items()
    }
    begin = ["--initialization", language.base] if language.base else []
    for name, strategy in STRATEGIES.items():
        if name == "both":  # the hybrid has the same network
            share(folder / "finetune", places[name] / "finetune")
        elif strategy.rows:
            rows = ["--data", *(folder / part for part in strategy.rows)]
            step("finetune", places[name], *rows, *begin, "--publish", "false")
    for name, strategy in STRATEGIES.items():
        options = ["--data", folder / "distill", "--other_tasks", folder / "stories", *chosen[name]]
        if NGRAM in strategy.sources:
            options += ["--table_corpus", language.text, *kept_out]
        step("tune", places[name], *options, "--to", drafters[name])

    speedups = {
        name: finished_step(places[name] / "tune", "")["facts"]["speedup_on_validation"] for name in STRATEGIES
    }
    best = max(reversed(STRATEGIES), key=speedups.get)
    rows = [
        [strategy.method + " *" * (name == best), f"{speedups[name]:.2f}x"] for name, strategy in STRATEGIES.items()
    ]
    print(f"\n{markdown_table(['strategy', 'slower task, held-out answers replayed'], rows)}")

    against = [f"{strategy.method}={drafters[name]}" for name, strategy in STRATEGIES.items() if name != best]
    measured = ["--drafter", drafters[best], "--against", *against]
    step("bench", places[best], *measured, "--questions", questions)
    step("bench", places[best], *measured, "--task", STORY)
    asked = {key: value for key, value in given.items() if hasattr(publishing, key) and key != "sources"}
    options = [word for key, value in asked.items() for word in (f"--{key}", value)]
    step("publish", places[best], *options, *chosen[best])
    for place in (places[best], places[best] / "tasks" / STORY):
        print(f"\n{speedup_tables(read_results(place / 'results.json'))}")


def prompts_within(minutes: int, folder: Path) -> int:
    """Return how many prompts the target answers in some minutes, by the pilot; what was found once stays."""
    path = folder / "plan.json"
    if path.is_file():
        plan = json.loads(path.read_text(encoding="utf-8"))
        if plan["minutes"] == minutes:
            return plan["prompts"]
    seconds = finished_step(folder / "pilot", "run this recipe again")["seconds"]
    prompts = max(PILOT, int(60 * minutes * (PILOT + 1) / seconds))
    plan = json.dumps({"minutes": minutes, "prompts": prompts}) + "\n"
    write_whole(path, lambda partial: partial.write_text(plan, encoding="utf-8"))
    return prompts


def share(step: Path, other: Path) -> None:
    """Make a step's folder that of another run too, wherever both are moved."""
    other.parent.mkdir(parents=True, exist_ok=True)
    if not other.is_symlink():
        other.symlink_to(os.path.relpath(step, other.parent), target_is_directory=True)


if __name__ == "__main__":
    run_recipe(main)
