"""Two results files against each other: the same methods, run by run, over the questions that both asked."""

from collections.abc import Iterator
from typing import Any

from drafter_trainer.benchmark.report import device_line, interval_text, markdown_table
from drafter_trainer.benchmark.statistics import Timings, speedup, speedup_ratio, verdict
from drafter_trainer.benchmark.summary import timings
from drafter_trainer.decoding.sampling import describe_sampling
from drafter_trainer.errors import InputError
from drafter_trainer.results import PLAIN, MeasuredRun, Results, find_method

_RUN = ("pair", "task", "temperature", "seed")
# And what holds where a file does not say it.
_SETTINGS = {"dtype": None, "max_new_tokens": None, "draft_length": None, "repeats": 1, "follow_clock": True}


def compare_results(a: dict[str, Any], b: dict[str, Any]) -> str:
    """Hold two results against each other.

    Each method's speedup in A stands beside that in B, both over the questions that A and B have in common, and their
    ratio with a paired bootstrap interval. What differs between the two beside that is said first.
    """
    of_a, of_b = ({_key(run): run for run in results["runs"]} for results in (a, b))
    common = [key for key in of_a if key in of_b]
    if not common:
        names = [", ".join(_name(key) for key in keys) for keys in (of_a, of_b)]
        raise InputError(
            f"A and B have no run in common: A has {names[0]}; B has {names[1]}: measure the same in both"
        )
    cautions = [*_differences(a, b), *(text for key in common for text in _differing_runs(of_a[key], of_b[key]))]
    parts = [f"A: {_identity(a)}\n\nB: {_identity(b)}"]
    if cautions:
        parts.append("What may not be concluded:\n\n" + "\n".join(f"- {text}" for text in cautions))
    parts += [_compare_runs(of_a[key], of_b[key]) for key in common]
    for name, keys, others in (("A", of_a, of_b), ("B", of_b, of_a)):
        parts += [f"{_name(key)}: in {name} alone, not compared." for key in keys if key not in others]
    return "\n\n".join(parts)


def _key(run: MeasuredRun) -> tuple[Any, ...]:
    engine = run.get("engine", {})
    return (*(run[name] for name in _RUN), engine.get("name"), engine.get("requests_at_once"))


def _name(key: tuple[Any, ...]) -> str:
    pair, task, temperature, seed, engine, requests = key
    served = f", {requests} at once in {engine}" if engine else ""
    return f"{pair}, {task}, {describe_sampling(temperature, seed)}{served}"


def _identity(results: Results) -> str:
    provenance = results["provenance"]
    measured = [provenance.get(name) for name in ("drafter", "drafter_revision", "date", "commit")]
    return ", ".join([*filter(None, measured), device_line(results)])


def _differences(a: dict[str, Any], b: dict[str, Any]) -> Iterator[str]:
    of_a, of_b = a["provenance"], b["provenance"]
    if of_a.get("target") != of_b.get("target"):
        yield f"The targets differ ({of_a.get('target')}; {of_b.get('target')}): so does what a speedup is over."
    if of_a["device"] != of_b["device"]:
        yield "The devices differ: a difference may be theirs, and not the methods'."
    names = sorted(of_a["versions"].keys() | of_b["versions"].keys())
    if changed := _changed(of_a["versions"], of_b["versions"], dict.fromkeys(names, "not stated")):
        yield f"Versions differ ({changed}): a difference may be theirs."


def _changed(a: dict[str, Any], b: dict[str, Any], defaults: dict[str, Any]) -> str:
    both = {name: (a.get(name, default), b.get(name, default)) for name, default in defaults.items()}
    return ", ".join(f"{name} {in_a} and {in_b}" for name, (in_a, in_b) in both.items() if in_a != in_b)


def _differing_runs(a: dict[str, Any], b: dict[str, Any]) -> Iterator[str]:
    name, common = _name(_key(a)), _common_questions(a, b)
    if a["questions"]["sha256"] != b["questions"]["sha256"]:
        counts = f"{a['questions']['count']} and {b['questions']['count']}, of which {len(common)} share their ids"
        yield (
            f"{name}: the questions differ ({counts}): only those with the same id are compared, and whether their "
            "prompts are the same cannot be told."
        )
    if changed := _changed(a, b, _SETTINGS):
        yield f"{name}: settings differ ({changed}): a difference may be theirs."
    of_a, of_b = (_method_timings(run, PLAIN, common) for run in (a, b))
    if others := int((of_a.tokens != of_b.tokens).sum()):
        yield f"{name}: plain decoding gives answers of other lengths to {others} of {len(common)} questions."


def _compare_runs(a: dict[str, Any], b: dict[str, Any]) -> str:
    questions = _common_questions(a, b)
    heading = f"{_name(_key(a))}, {len(questions)} questions in both"
    if not questions:
        return f"{heading}: not compared."
    names = [method["name"] for method in a["methods"]]
    names += [method["name"] for method in b["methods"] if method["name"] not in names]
    rows, largest = [], (0.0, "")
    for name in names:
        found = [_method_timings(run, name, questions) for run in (a, b)]
        plain = [_method_timings(run, PLAIN, questions) for run in (a, b)]
        speedups = [timed and speedup(timed, without) for timed, without in zip(found, plain)]
        cells = ["-" if interval is None else interval_text(interval) for interval in speedups]
        if None in found:
            rows.append([name, *cells, "-", f"in {'A' if found[1] is None else 'B'} alone"])
            continue
        ratio = speedup_ratio(found[1], plain[1], found[0], plain[0])
        if name == PLAIN:
            rows.append([name, *cells, "-", "-"])
            continue
        largest = max(largest, (abs(ratio.value - 1), name))
        rows.append([name, *cells, interval_text(ratio, decimals=3), str(verdict(ratio, len(questions)))])
    table = markdown_table(["method", "A (95 %)", "B (95 %)", "B / A (95 %)", "B is"], rows)
    share, name = largest
    return f"{heading}\n\n{table}\n\n" + (
        f"Largest difference: {share:.1%}, {name}." if name else "No method but plain decoding stands in both."
    )


def _common_questions(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    asked = {prompt["question_id"] for prompt in b["methods"][0]["prompts"]}
    return [prompt["question_id"] for prompt in a["methods"][0]["prompts"] if prompt["question_id"] in asked]


def _method_timings(run: MeasuredRun, name: str, questions: list[str]) -> Timings | None:
    if name not in {method["name"] for method in run["methods"]}:
        return None
    prompts = {prompt["question_id"]: prompt for prompt in find_method(run, name)["prompts"]}
    return timings([prompts[question] for question in questions])
