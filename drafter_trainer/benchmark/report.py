"""Render results as tables for the terminal and for Markdown, from `results.json` alone."""

import statistics

from drafter_trainer.benchmark.caveats import caveats
from drafter_trainer.benchmark.statistics import Interval, median_ratio, speedup, verdict
from drafter_trainer.benchmark.summary import timings
from drafter_trainer.benchmark.target_quality import beyond_limits
from drafter_trainer.decoding.sampling import describe_sampling
from drafter_trainer.languages import get_pair
from drafter_trainer.results import (
    PLAIN,
    MeasuredMethod,
    MeasuredRun,
    Results,
    find_method,
    say_setting,
)

TIME_PARTS = ("draft", "verification", "overhead")
Table = tuple[list[str], list[list[str]]]  # header and rows


def speedup_tables(results: Results) -> str:
    """Render a table for each run, with what it was measured on above it."""
    return "\n\n".join(f"{title(results, run)}\n\n{markdown_table(*speedup_table(run))}" for run in results["runs"])


def report_tables(results: Results) -> str:
    """Render every table of every run: speedups, differences, where the time went, and quality."""
    parts = []
    for run in results["runs"]:
        parts.append(title(results, run))
        parts += [markdown_table(*table) for table in run_tables(run).values()]
    return "\n\n".join(parts)


def run_tables(run: MeasuredRun) -> dict[str, Table]:
    """List the tables of a run by name, those alone for which something was measured."""
    tables = {"Speed": speedup_table(run), "Differences": difference_table(run), "Time": time_table(run)}
    tables["Quality"] = quality_table(run)
    return {name: table for name, table in tables.items() if table}


def render_markdown(results: Results) -> str:
    """Render the whole report: the tables, what they do not show, and where the numbers come from."""
    parts = [f"# {results['provenance'].get('drafter', 'Benchmark')}", report_tables(results)]
    parts.append("## What may not be concluded")
    parts.append("\n".join(f"- {caveat}" for caveat in caveats(results)))
    parts.append("## Where the numbers come from")
    parts.append("\n".join(f"- {name}: {value}" for name, value in provenance_rows(results)))
    return "\n\n".join(parts) + "\n"


def provenance_rows(results: Results) -> list[tuple[str, str]]:
    """List what was measured, where and with what, by name."""
    provenance, device = results["provenance"], results["provenance"]["device"]
    rows = [
        (name, provenance[name])
        for name in ("drafter", "drafter_revision", "target", "command", "commit", "date")
        if provenance.get(name)
    ]
    rows.append(("device", f"{device['name']} ({device['runtime']})"))
    rows.append(("dtype", ", ".join(sorted({run["dtype"] for run in results["runs"]}))))
    rows.append(("versions", ", ".join(f"{name} {version}" for name, version in provenance["versions"].items())))
    return [(name.replace("_", " "), value) for name, value in rows]


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


def device_line(results: Results) -> str:
    """Say on one line what was measured on."""
    provenance = results["provenance"]
    device, versions = provenance["device"], provenance["versions"]
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers"))
    return f"{device['name']} ({device['runtime']}), {libraries}"


def title(results: Results, run: MeasuredRun) -> str:
    """Say on one line what a run asked, how, and on what."""
    sampling = describe_sampling(run["temperature"], run["seed"])
    if run["temperature"] > 0:
        sampling += ", no top-k/top-p"
    repeats = f", the median of {run['repeats']} times" if run.get("repeats", 1) > 1 else ""
    costs = "" if run.get("follow_clock", True) else ", drafts by stored costs"
    return (
        f"{run['pair']}, {run['task']}, {run['questions']['count']} questions of {run['questions']['source']}, "
        f"{sampling}, {run['dtype']}, at most {run['max_new_tokens']} new tokens, {say_setting(run)}{repeats}{costs}; "
        f"{answers_line(run)}. {device_line(results)}"
    )


def answers_line(run: MeasuredRun) -> str:
    """Say what plain decoding's answers are worth: scores, language, loops, and whether that is too little."""
    plain, parts = find_method(run, PLAIN), []
    if quality := plain.get("quality"):
        parts.append(f"chrF {quality['chrf']:.1f}, BLEU {quality['bleu']:.1f}")
    if "language_share" in run:
        parts.append(f"{run['language_share']:.0%} in {get_pair(run['pair']).target.name}")
    parts.append(f"{plain['looping_share']:.0%} loop")
    reasons = beyond_limits(run)
    return f"plain outputs: {', '.join(parts)}" + (f"; no showcase: {' and '.join(reasons)}" if reasons else "")


def speedup_table(run: MeasuredRun) -> Table:
    """List each method's speedup and what belongs to it."""
    if "engine" in run:
        return engine_table(run)
    header = [
        "method",
        "draft",
        "speedup (95 %)",
        "after the first token",
        "without loops",
        "tokens/s",
        "characters/s",
        "tokens per pass",
    ]
    header += ["α", "slower prompts", "equal to plain", "ratio of the paper's script"]
    return header, [_row(method) for method in run["methods"]]


def engine_table(run: MeasuredRun) -> Table:
    """List what each method of a server made of its requests; speed over plain decoding is the server's output."""
    header = ["method", "draft", "output tokens/s", "over plain", "speed of a request (95 %)", "first token, ms"]
    header += ["tokens per pass", "accepted", "accepted at 1, 2, 3 ...", "equal to plain"]
    plain = find_method(run, PLAIN)["tokens_per_second"]
    rows = []
    for method in run["methods"]:
        first = statistics.median(prompt["first_pass_seconds"] for prompt in method["prompts"])
        rate, lossless = method["acceptance_rate"], method["losslessness"]
        rows.append(
            [
                method["name"],
                str(method["draft_length"] or "-"),
                f"{method['tokens_per_second']:.1f}",
                _ratio(method["tokens_per_second"] / plain),
                interval_text(Interval(**method["speedup"])),
                f"{1000 * first:.0f}",
                f"{method['mean_accepted_tokens']:.2f}",
                "-" if rate is None else f"{rate:.0%}",
                " ".join(f"{share:.2f}" for share in method["acceptance_by_position"]) or "-",
                f"{lossless['equal']}/{lossless['prompts']}",
            ]
        )
    return header, rows


def difference_table(run: MeasuredRun) -> Table:
    """List, for each method, the median of its prompts' own ratios, and how the table's last method compares with it.

    Both are taken from the figures of the prompts, pair by pair; a difference within noise is called so.
    """
    plain, subject = find_method(run, PLAIN), run["methods"][-1]
    name, count = subject["name"], run["questions"]["count"]
    rows = []
    for method in run["methods"]:
        median = median_ratio(timings(method["prompts"]), timings(plain["prompts"]))
        over = speedup(timings(subject["prompts"]), timings(method["prompts"]))
        against_plain = "-" if method is plain else str(verdict(Interval(**method["speedup"]), count))
        against_it = ["-", "-"] if method is subject else [interval_text(over, decimals=3), str(verdict(over, count))]
        rows.append([method["name"], interval_text(median), against_plain, *against_it])
    return ["method", "median prompt (95 %)", "than plain", f"{name} over it (95 %)", f"{name} is"], rows


def time_table(run: MeasuredRun) -> Table | None:
    """List where the time of a token went, in milliseconds, or return `None` where that was not measured."""
    header = ["method", "draft, ms a token", "verification", "overhead", "cost ratio", "joules a token"]
    rows = []
    for method in run["methods"]:
        if "time_split" in method:
            split, joules = method["time_split"], method.get("joules_per_token")
            parts = [1000 * split[f"{part}_seconds"] / method["tokens"] for part in TIME_PARTS]
            ratio = "-" if split["cost_ratio"] is None else f"{split['cost_ratio']:.3f}"
            energy = "-" if joules is None else f"{joules:.2f}"
            rows.append([method["name"], *(f"{part:.2f}" for part in parts), ratio, energy])
    return (header, rows) if rows else None


def quality_table(run: MeasuredRun) -> Table | None:
    """List the scores of the answers against references, or return `None` where there were none."""
    header = ["method", "answers", "chrF", "BLEU", "BLEU's signature"]
    scored = [(method["name"], method["quality"]) for method in run["methods"] if "quality" in method]
    rows = []
    for name, quality in scored:
        scores = [f"{quality[metric]:.1f}" for metric in ("chrf", "bleu")]
        rows.append([name, str(quality["answers"]), *scores, quality["signatures"]["bleu"]])
    return (header, rows) if rows else None


def _row(method: MeasuredMethod) -> list[str]:
    lossless = method["losslessness"]
    return [
        method["name"],
        str(method["draft_length"] or "-"),
        interval_text(Interval(**method["speedup"])),
        _value(method.get("speedup_after_first_pass")),
        _value(method["speedup_without_loops"]),
        f"{method['tokens_per_second']:.1f}",
        f"{method['characters_per_second']:.1f}",
        f"{method['mean_accepted_tokens']:.2f}",
        "-" if method["alpha"] is None else f"{method['alpha']:.2f}",
        f"{method['slower_share']:.0%}",
        f"{lossless['equal']}/{lossless['prompts']}" if lossless else "lossy" if method.get("lossy") else "sampled",
        f"{method['paper_script_ratio']:.2f}x",
    ]


def _value(figure: dict[str, float] | None) -> str:
    return _ratio(figure and figure["value"])


def interval_text(interval: Interval, decimals: int = 2) -> str:
    """Write a ratio with its interval; a verdict by whether it holds 1 is seen in three decimals."""
    value, low, high = (f"{figure:.{decimals}f}" for figure in (interval.value, interval.low, interval.high))
    return f"{value}x ({low}-{high})"


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Render a Markdown table whose columns are as wide as their widest cell, so that it reads well as text too."""
    header, *rows = ([cell.replace("|", "\\|") for cell in row] for row in (header, *rows))
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths)] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)
