"""Render results as tables and Markdown, from `results.json` only."""

import statistics
from collections.abc import Callable, Iterator
from typing import Any

from drafter_trainer.benchmark.quality import failed_checks
from drafter_trainer.benchmark.statistics import FEWEST_PROMPTS, Interval, Timings, speedup, verdict
from drafter_trainer.decoding.sampling import describe_sampling
from drafter_trainer.languages import get_pair
from drafter_trainer.results import (
    PLAIN,
    Bounds,
    MeasuredMethod,
    MeasuredRun,
    Results,
    batch_text,
    find_method,
    margin_text,
)

TIME_PARTS = ("draft", "verification", "overhead")
Table = tuple[list[str], list[list[str]]]  # header and rows
_MANY_PROMPTS = 80  # as many as Spec-Bench has for each task


def speedup_tables(results: Results) -> str:
    """Render the speedups of each run as a table with a title."""
    return "\n\n".join(f"{title(results, run)}\n\n{markdown_table(*speedup_table(run))}" for run in results["runs"])


def report_tables(results: Results) -> str:
    """Render all tables of all runs: speedups, differences, time and quality."""
    parts = []
    for run in results["runs"]:
        parts += [title(results, run), *(markdown_table(*table) for table in run_tables(run).values())]
    return "\n\n".join(parts)


def render_markdown(results: Results) -> str:
    """Render the whole report: the tables, the limits of the results, and their provenance."""
    parts = [f"# {results['provenance'].get('drafter', 'Benchmark')}", report_tables(results)]
    parts += ["## Limits of these results", "\n".join(f"- {caveat}" for caveat in caveats(results))]
    parts += ["## Provenance", "\n".join(f"- {name}: {value}" for name, value in provenance_rows(results))]
    return "\n\n".join(parts) + "\n"


def run_tables(run: MeasuredRun) -> dict[str, Table]:
    """Return the tables of a run by name, without those for which nothing was measured."""
    tables = {"Speed": speedup_table(run), "Differences": difference_table(run)}
    tables |= {"Time": time_table(run), "Quality": quality_table(run)}
    return {name: table for name, table in tables.items() if table[1]}


def provenance_rows(results: Results) -> list[tuple[str, str]]:
    """List the drafter, the target, the command, the machine and the versions of results, by name."""
    provenance, device = results["provenance"], results["provenance"]["device"]
    names = ("drafter", "drafter_revision", "target", "command", "commit", "date")
    rows = [(name.replace("_", " "), provenance[name]) for name in names if provenance.get(name)]
    rows.append(("device", f"{device['name']} ({device['runtime']})"))
    rows.append(("dtype", ", ".join(sorted({run["dtype"] for run in results["runs"]}))))
    rows.append(("versions", ", ".join(f"{name} {version}" for name, version in provenance["versions"].items())))
    return rows


def device_line(results: Results) -> str:
    """Describe the device and the main libraries of results in one line."""
    device, versions = results["provenance"]["device"], results["provenance"]["versions"]
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers"))
    return f"{device['name']} ({device['runtime']}), {libraries}"


def title(results: Results, run: MeasuredRun) -> str:
    """Describe the task, the settings, the output quality and the device of a run in one line."""
    sampling = describe_sampling(run["temperature"], run["seed"])
    if run["temperature"] > 0:
        sampling += ", no top-k/top-p"
    repeats = f", the median of {run['repeats']} times" if run.get("repeats", 1) > 1 else ""
    costs = "" if run.get("follow_clock", True) else ", drafts by stored costs"
    plain, quality = find_method(run, PLAIN), []
    if scores := plain.get("quality"):
        quality.append(f"chrF {scores['chrf']:.1f}, BLEU {scores['bleu']:.1f}")
    if "language_share" in run:
        quality.append(f"{run['language_share']:.0%} in {get_pair(run['pair']).target.name}")
    quality.append(f"{plain['looping_share']:.0%} loop")
    reasons = failed_checks(run)
    return (
        f"{run['pair']}, {run['task']}, {run['questions']['count']} questions of {run['questions']['source']}, "
        f"{sampling}, {run['dtype']}, at most {run['max_new_tokens']} new tokens, {batch_text(run)}{repeats}{costs}; "
        f"plain outputs: {', '.join(quality)}"
        + (f"; not a showcase: {' and '.join(reasons)}" if reasons else "")
        + f". {device_line(results)}"
    )


def speedup_table(run: MeasuredRun) -> Table:
    """List the speed and the acceptance of each method.

    For an engine, "over plain" compares the output tokens/s of the servers.
    """
    plain = find_method(run, PLAIN)["tokens_per_second"]
    columns: dict[str, Callable[[MeasuredMethod], str]] = {
        "method": lambda method: method["name"],
        "draft": lambda method: str(method["draft_length"] or "-"),
    }
    if "engine" in run:
        columns |= {
            "output tokens/s": lambda method: f"{method['tokens_per_second']:.1f}",
            "over plain": lambda method: f"{method['tokens_per_second'] / plain:.2f}x",
            "speed of a request (95 %)": lambda method: interval_text(Interval(**method["speedup"])),
            "first token, ms": lambda method: f"{1000 * statistics.median(_first_tokens(method)):.0f}",
            "tokens per pass": lambda method: f"{method['mean_accepted_tokens']:.2f}",
            "accepted": lambda method: _text(method["acceptance_rate"], ".0%"),
            "accepted at 1, 2, 3 ...": lambda method: _shares(method["acceptance_by_position"]),
            "equal to plain": _equality,
        }
    else:
        columns |= {
            "speedup (95 %)": lambda method: interval_text(Interval(**method["speedup"])),
            "after the first token": lambda method: _value(method.get("speedup_after_first_pass")),
            "without loops": lambda method: _value(method["speedup_without_loops"]),
            "tokens/s": lambda method: f"{method['tokens_per_second']:.1f}",
            "characters/s": lambda method: f"{method['characters_per_second']:.1f}",
            "tokens per pass": lambda method: f"{method['mean_accepted_tokens']:.2f}",
            "α": lambda method: _text(method["alpha"], ".2f"),
            "slower prompts": lambda method: f"{method['slower_share']:.0%}",
            "equal to plain": _equality,
            "ratio of the paper's script": lambda method: f"{method['paper_script_ratio']:.2f}x",
        }
    return [*columns], [[cell(method) for cell in columns.values()] for method in run["methods"]]


def difference_table(run: MeasuredRun) -> Table:
    """Compare each method with plain decoding and with the last method of the table, with verdicts."""
    count, subject = run["questions"]["count"], run["methods"][-1]
    rows = []
    for method in run["methods"]:
        cells = ["-", "-", "-"]
        if method["name"] != PLAIN:
            cells[0] = str(verdict(Interval(**method["speedup"]), count))
        if method is not subject:
            ratio = speedup(Timings.from_prompts(subject["prompts"]), Timings.from_prompts(method["prompts"]))
            cells[1:] = [interval_text(ratio, decimals=3), str(verdict(ratio, count))]
        rows.append([method["name"], *cells])
    name = subject["name"]
    return ["method", "compared with plain", f"{name} / method (95 %)", f"{name} is"], rows


def time_table(run: MeasuredRun) -> Table:
    """List the milliseconds per token of each part of the decoding; no rows if they were not measured."""
    rows = []
    for method in run["methods"]:
        if split := method.get("time_split"):
            parts = (f"{1000 * split[f'{part}_seconds'] / method['tokens']:.2f}" for part in TIME_PARTS)
            rows.append([method["name"], *parts, _text(split["cost_ratio"], ".3f")])
    return ["method", "draft, ms per token", "verification", "overhead", "cost ratio"], rows


def quality_table(run: MeasuredRun) -> Table:
    """List the scores of the outputs against references; no rows without references."""
    rows = []
    for method in run["methods"]:
        if scores := method.get("quality"):
            figures = (f"{scores['chrf']:.1f}", f"{scores['bleu']:.1f}", scores["signatures"]["bleu"])
            rows.append([method["name"], str(scores["answers"]), *figures])
    return ["method", "completions", "chrF", "BLEU", "BLEU's signature"], rows


def _equality(method: MeasuredMethod) -> str:
    if lossless := method["losslessness"]:
        return f"{lossless['equal']}/{lossless['prompts']}"
    return "lossy" if method.get("lossy") else "sampled"


def _first_tokens(method: MeasuredMethod) -> list[float]:
    return [prompt["first_pass_seconds"] for prompt in method["prompts"]]


def _shares(shares: list[float]) -> str:
    return " ".join(f"{share:.2f}" for share in shares) or "-"


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _value(interval: Bounds | None) -> str:
    return "-" if interval is None else f"{interval['value']:.2f}x"


def interval_text(interval: Interval, decimals: int = 2) -> str:
    """Format a ratio with its interval; three decimals show on which side of 1 the interval is."""
    value, low, high = (f"{figure:.{decimals}f}" for figure in (interval.value, interval.low, interval.high))
    return f"{value}x ({low}-{high})"


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Render a Markdown table with padded columns, so that it is readable as text too."""
    lines = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths))} |" for line in lines)


def caveats(results: Results) -> list[str]:
    """List the limits of the results, each in a sentence or two."""
    provenance, runs = results["provenance"], results["runs"]
    return [*_caveats_of_setting(provenance, runs), *_caveats_of_outputs(runs), *_caveats_of_commit(provenance)]


def _caveats_of_setting(provenance: dict[str, Any], runs: list[MeasuredRun]) -> Iterator[str]:
    device, target = provenance["device"], provenance.get("target", "the target")
    yield (
        f"Measured on one machine, {device['name']} ({device['runtime']}): forward passes and drafts take other times "
        "on another machine, and another method may be the fastest there."
    )
    if any("engine" in run for run in runs):
        yield (
            "The servers of the methods ran one after another: changes in the machine's load affect their times, but "
            "not the tokens per target pass."
        )
    if any("engine" not in run for run in runs):
        yield "Batch size 1: nothing follows for a server with several concurrent requests."
    if device.get("type") == "cpu" and any(run["dtype"] == "float32" for run in runs):
        yield "float32 on a processor: nothing follows for half precision on an accelerator."
    tasks = " and ".join(sorted({f"{run['pair']} {run['task']}" for run in runs}))
    yield f"One target, {target}, and {tasks}: nothing follows for other targets, languages or tasks."
    fewest = min(run["questions"]["count"] for run in runs)
    if fewest < FEWEST_PROMPTS:
        yield f"Only {fewest} questions: intervals over so few questions are too narrow, and there is no verdict."
    elif fewest < _MANY_PROMPTS:
        yield f"{fewest} questions: a difference smaller than the intervals may be chance."
    yield "One run: the intervals cover the variation between prompts, not between runs."
    if any(run.get("repeats", 1) == 1 for run in runs):
        yield "Each prompt was timed once: other load on the machine affects the times."


def _caveats_of_outputs(runs: list[MeasuredRun]) -> Iterator[str]:
    if looping := max(find_method(run, PLAIN)["looping_share"] for run in runs):
        yield (
            f"{looping:.0%} of plain outputs end in a loop, which any drafter predicts easily: with a target that "
            "loops less, the speedup is lower, as the column without loops shows."
        )
    if sampled := [run for run in runs if run["temperature"] > 0]:
        seeds, fewest = len({run["seed"] for run in sampled}), min(run["questions"]["count"] for run in sampled)
        yield (
            f"Sampled with {seeds} {'seed' if seeds == 1 else 'seeds'} on {fewest} questions: other seeds give other "
            "texts and other speeds. Single outputs cannot show that sampling keeps the target's distribution."
        )
    for run in runs:
        compared = {method["name"]: method["losslessness"] or {"divergences": []} for method in run["methods"]}
        if different := {name: each for name, each in compared.items() if each["divergences"]}:
            counts = [f"{name} {len(each['divergences'])} of {each['prompts']}" for name, each in different.items()]
            margin = margin_text([divergence for each in different.values() for divergence in each["divergences"]])
            yield (
                "Outputs that differ from those of plain decoding are other texts with other speeds: "
                f"{', '.join(counts)}. At the first difference, {margin}."
            )


def _caveats_of_commit(provenance: dict[str, Any]) -> Iterator[str]:
    commit = provenance.get("commit", "")
    if not commit:
        yield "The commit is not known, so the measured code cannot be looked up."
    elif commit.endswith("+"):
        yield f"Files were changed after commit {commit[:-1]}, so the measured code differs from it."
