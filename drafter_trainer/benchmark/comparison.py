"""Compare two results files: the same methods in the same runs, on the questions that both have."""

from collections.abc import Iterator
from typing import Any

from drafter_trainer.benchmark.report import device_line, interval_text, markdown_table
from drafter_trainer.benchmark.statistics import Timings, speedup, speedup_ratio, verdict
from drafter_trainer.decoding.sampling import describe_sampling
from drafter_trainer.errors import InputError
from drafter_trainer.results import PLAIN, MeasuredRun, Results

# Settings to compare, each with its value in files that do not state it
_SETTINGS = {"dtype": None, "max_new_tokens": None, "draft_length": None, "repeats": 1, "follow_clock": True}


def compare_results(a: Results, b: Results) -> str:
    """Compare two results.

    For each method, the table has its speedups in A and in B, and their ratio with a paired bootstrap interval. Only
    questions that A and B have in common count. Differences in the settings are listed first.
    """
    runs_a, runs_b = ({_name(run): run for run in results["runs"]} for results in (a, b))
    common = [name for name in runs_a if name in runs_b]
    if not common:
        names = f"A has {', '.join(runs_a)}; B has {', '.join(runs_b)}"
        raise InputError(f"A and B have no run in common ({names}): measure the same task and settings in both")
    cautions, tables = [*_differences(a["provenance"], b["provenance"])], []
    for name in common:
        differing, table = _compare_runs(name, runs_a[name], runs_b[name])
        cautions += differing
        tables.append(table)
    parts = [f"A: {_identity(a)}\n\nB: {_identity(b)}"]
    if cautions:
        parts.append("Limits of this comparison:\n\n" + "\n".join(f"- {text}" for text in cautions))
    parts += tables
    for side, runs in (("A", runs_a), ("B", runs_b)):
        parts += [f"{name}: only in {side}, not compared." for name in runs if name not in common]
    return "\n\n".join(parts)


def _name(run: MeasuredRun) -> str:
    engine = run.get("engine")
    served = f", {engine['requests_at_once']} at once in {engine['name']}" if engine else ""
    return f"{run['pair']}, {run['task']}, {describe_sampling(run['temperature'], run['seed'])}{served}"


def _identity(results: Results) -> str:
    measured = (results["provenance"].get(name) for name in ("drafter", "drafter_revision", "date", "commit"))
    return ", ".join([*filter(None, measured), device_line(results)])


def _differences(a: dict[str, Any], b: dict[str, Any]) -> Iterator[str]:
    if a.get("target") != b.get("target"):
        yield f"The targets differ ({a.get('target')}; {b.get('target')}), and so does plain decoding."
    if a["device"] != b["device"]:
        yield "The devices differ: the devices, not the methods, may cause a difference in speed."
    names = sorted(a["versions"].keys() | b["versions"].keys())
    if changed := _changed(a["versions"], b["versions"], dict.fromkeys(names, "not stated")):
        yield f"Versions differ ({changed}), which may cause a difference in speed."


def _changed(a: dict[str, Any], b: dict[str, Any], defaults: dict[str, Any]) -> str:
    both = {name: (a.get(name, default), b.get(name, default)) for name, default in defaults.items()}
    return ", ".join(f"{name} {in_a} and {in_b}" for name, (in_a, in_b) in both.items() if in_a != in_b)


def _compare_runs(name: str, a: MeasuredRun, b: MeasuredRun) -> tuple[list[str], str]:
    """Return the differences in the settings of two runs, and the table of their speedups."""
    ids_of_b = {prompt["question_id"] for prompt in b["methods"][0]["prompts"]}
    common = [prompt["question_id"] for prompt in a["methods"][0]["prompts"] if prompt["question_id"] in ids_of_b]
    both = [_timings(run, common) for run in (a, b)]
    differing = []
    if a["questions"]["sha256"] != b["questions"]["sha256"]:
        counts = f"{a['questions']['count']} and {b['questions']['count']}, of which {len(common)} share their ids"
        differing.append(
            f"{name}: the questions differ ({counts}): only questions with the same id are compared, and their "
            "prompts may differ."
        )
    if changed := _changed(a, b, _SETTINGS):
        differing.append(f"{name}: settings differ ({changed}), which may cause a difference in speed.")
    if others := int((both[0][PLAIN].tokens != both[1][PLAIN].tokens).sum()):
        lengths = f"the lengths of plain decoding's outputs differ for {others} of {len(common)} questions"
        differing.append(f"{name}: {lengths}.")
    heading = f"{name}, {len(common)} questions in both"
    if not common:
        return differing, f"{heading}: not compared."
    rows, largest = [], (0.0, "")
    for method in both[0] | both[1]:
        cells = [interval_text(speedup(each[method], each[PLAIN])) if method in each else "-" for each in both]
        if "-" in cells:
            cells += ["-", f"only in {'A' if method in both[0] else 'B'}"]
        elif method == PLAIN:
            cells += ["-", "-"]
        else:
            ratio = speedup_ratio(both[1][method], both[1][PLAIN], both[0][method], both[0][PLAIN])
            cells += [interval_text(ratio, decimals=3), str(verdict(ratio, len(common)))]
            largest = max(largest, (abs(ratio.value - 1), method))
        rows.append([method, *cells])
    table = markdown_table(["method", "A (95 %)", "B (95 %)", "B / A (95 %)", "B is"], rows)
    share, method = largest
    result = f"Largest difference: {share:.1%}, {method}." if method else "Only plain decoding is in both."
    return differing, f"{heading}\n\n{table}\n\n{result}"


def _timings(run: MeasuredRun, questions: list[str]) -> dict[str, Timings]:
    """Return the timings of a run's methods on some questions, by name."""
    timings = {}
    for method in run["methods"]:
        prompts = {prompt["question_id"]: prompt for prompt in method["prompts"]}
        timings[method["name"]] = Timings.from_prompts([prompts[question] for question in questions])
    return timings
