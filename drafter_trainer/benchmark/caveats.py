"""What may not be concluded from results, said from what they hold."""

from collections.abc import Iterator
from typing import Any

from drafter_trainer.benchmark.statistics import FEWEST_PROMPTS
from drafter_trainer.results import PLAIN, MeasuredRun, Results, find_method, say_margin

_MANY_PROMPTS = 80  # of each of its tasks, Spec-Bench asks as many


def caveats(results: Results) -> list[str]:
    """List what the numbers of a file do not show, each in a sentence or two."""
    runs = results["runs"]
    said = [*_of_the_machine(results), *_of_the_questions(runs), *_of_the_clock(runs)]
    for run in runs:
        said += _of_other_texts(run)
    return [*said, *_of_the_code(results["provenance"])]


def _of_the_machine(results: Results) -> Iterator[str]:
    provenance, runs = results["provenance"], results["runs"]
    device = provenance["device"]
    yield (
        f"Measured on one machine, {device['name']} ({device['runtime']}): on another one passes and drafts take "
        "other times, and a method that is ahead here may be behind there."
    )
    if any("engine" in run for run in runs):
        yield (
            "The methods' servers ran one after another: what the machine did meanwhile is in their times, and not in "
            "tokens per pass."
        )
    if any("engine" not in run for run in runs):
        yield "Batch size 1: nothing follows for a server that answers several requests at once."
    if device.get("type") == "cpu" and any(run["dtype"] == "float32" for run in runs):
        yield "float32 on a processor: nothing follows for half precision on an accelerator."
    asked = " and ".join(sorted({f"{run['pair']} {run['task']}" for run in runs}))
    target = provenance.get("target", "the target")
    yield f"One target, {target}, and {asked}: nothing follows for other targets, languages or tasks."


def _of_the_questions(runs: list[dict[str, Any]]) -> Iterator[str]:
    fewest = min(run["questions"]["count"] for run in runs)
    if fewest < FEWEST_PROMPTS:
        yield f"Only {fewest} questions: an interval over so few is too narrow, and no verdict is given."
    elif fewest < _MANY_PROMPTS:
        yield f"{fewest} questions: a difference smaller than the intervals cannot be told from none."
    looping = max(find_method(run, PLAIN)["looping_share"] for run in runs)
    if looping > 0:
        yield (
            f"{looping:.0%} of plain outputs end in a loop, which any drafter guesses easily: a target that loops "
            "less gains less, as the column without loops shows."
        )


def _of_the_clock(runs: list[dict[str, Any]]) -> Iterator[str]:
    yield "One run: intervals are over prompts, and do not hold what changes from one run to the next."
    if any(run.get("repeats", 1) == 1 for run in runs):
        yield "Each prompt was timed once: what the machine did beside it is in the times."
    if sampled := [run for run in runs if run["temperature"] > 0]:
        seeds, fewest = len({run["seed"] for run in sampled}), min(run["questions"]["count"] for run in sampled)
        yield (
            f"Sampled with {seeds} {'seed' if seeds == 1 else 'seeds'} on {fewest} questions: other seeds give other "
            "texts, and other speeds. Single outputs cannot show that sampling keeps the target's distribution."
        )


def _of_other_texts(run: MeasuredRun) -> Iterator[str]:
    compared = {method["name"]: method["losslessness"] for method in run["methods"] if method["losslessness"]}
    if parted := {name: each for name, each in compared.items() if each["divergences"]}:
        counts = ", ".join(f"{name} {len(each['divergences'])} of {each['prompts']}" for name, each in parted.items())
        margin = say_margin([divergence for each in parted.values() for divergence in each["divergences"]])
        yield (
            f"Where an output differs from plain decoding's, its speed is that of another text: {counts}. Where they "
            f"part, {margin}."
        )


def _of_the_code(provenance: dict[str, Any]) -> Iterator[str]:
    commit = provenance.get("commit", "")
    if not commit:
        yield "The commit is not known: the code that was measured cannot be looked up."
    elif commit.endswith("+"):
        yield f"Files were changed after commit {commit[:-1]}: it is not quite the code that was measured."
