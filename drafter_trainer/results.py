"""`results.json`: the results of a benchmark, from which tables, cards, plots and pages are rendered.

    {schema_version, provenance, runs: [{pair, task, temperature, seed, draft_length, dtype, max_new_tokens, questions,
     methods: [{name, speedup: {value, low, high}, ..., prompts: [{question_id, tokens, seconds, ...}]}]}]}

`results.schema.json` describes every key with its unit, and docs/results_schema.md shows it as tables. Files are
checked against it when they are written and when they are read.
"""

import json
import textwrap
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from drafter_trainer.atomic import write_json
from drafter_trainer.errors import InputError

RESULTS = "results.json"
SCHEMA_VERSION = 1
SCHEMA: dict[str, Any] = json.loads(
    (resources.files("drafter_trainer") / "results.schema.json").read_text(encoding="utf-8")
)
# Names of methods
PLAIN = "plain"
PROMPT_LOOKUP = "prompt lookup"
PRETRAINED = "drafter before finetuning"
DRAFTER = "drafter"


class Bounds(TypedDict):
    """A figure with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


class MeasuredMethod(TypedDict):
    """The results of a method in a run; the schema has all keys."""

    name: str
    draft_length: int
    speedup: Bounds
    slower_share: float
    tokens: int
    seconds: float
    tokens_per_second: float
    acceptance_rate: float | None
    alpha: float | None
    mean_accepted_tokens: float
    acceptance_by_position: list[float]
    losslessness: dict[str, Any] | None
    prompts: list[dict[str, Any]]
    quality: NotRequired[dict[str, Any]]


class MeasuredRun(TypedDict):
    """The methods measured on one set of questions under one setting."""

    pair: str
    task: str
    temperature: float
    seed: int
    draft_length: int
    dtype: str
    max_new_tokens: int
    questions: dict[str, Any]
    engine: NotRequired[dict[str, Any]]
    methods: list[MeasuredMethod]


class Results(TypedDict):
    """The contents of `results.json`."""

    schema_version: int
    provenance: dict[str, Any]
    runs: list[MeasuredRun]


def find_method(run: MeasuredRun, name: str) -> MeasuredMethod:
    """Return the method with a name from a run."""
    return next(method for method in run["methods"] if method["name"] == name)


def margin_text(divergences: list[dict[str, Any]]) -> str:
    """Describe by how much the target's two best logits differ where outputs diverge from those of plain decoding."""
    margins = [divergence["margin"] for divergence in divergences if divergence["margin"] is not None]
    if not margins:
        return "the difference of the target's two best logits is not known"
    return f"the target's two best logits differ by {max(margins):.3g} at most"


def batch_text(run: MeasuredRun) -> str:
    """Describe how many requests were processed at once, and the engine if it was not transformers."""
    if (engine := run.get("engine")) is None:
        return "batch 1"
    at_once = engine["requests_at_once"]
    return f"{at_once} {'request' if at_once == 1 else 'requests'} at once in {engine['name']} {engine['version']}"


def write_results(results: Results, path: Path) -> None:
    """Check results and write them."""
    check_results(results, str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, results, indent=1)


def read_results(path: Path) -> Results:
    """Read results and check them."""
    if not path.is_file():
        raise InputError(f"{path}: no such file: run bench first")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON ({error}): run make bench again") from error
    check_results(results, str(path))
    return results


def check_results(results: Any, file: str) -> None:
    """Check results against the schema."""
    # An engine that loads a drafter must not need this library.
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    version = results.get("schema_version") if isinstance(results, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(f"{file} has schema version {version}, expected {SCHEMA_VERSION}: run make bench again")
    error = best_match(Draft202012Validator(SCHEMA).iter_errors(results))
    if error is not None:
        reason = textwrap.shorten(error.message, 160)
        raise InputError(f"{file}, {error.json_path}: {reason} (see docs/results_schema.md): run make bench again")


@dataclass(frozen=True)
class Headline:
    """The speed and the acceptance of a drafter in its first greedy run, or in its first run, with their setting."""

    speed: str
    acceptance: str

    @classmethod
    def from_results(cls, results: Any) -> "Headline":
        """Read the figures from results."""
        runs, provenance = results["runs"], results["provenance"]
        run = next((run for run in runs if run["temperature"] == 0), runs[0])
        method = next((method for method in run["methods"] if method["name"] == DRAFTER), None)
        if method is None:
            raise ValueError(f"no method has the name {DRAFTER}")
        questions, device, versions = run["questions"], provenance["device"], provenance["versions"]
        decoding = "greedy" if run["temperature"] == 0 else f"temperature {run['temperature']:g}"
        setting = (
            f"{run['task']} {run['pair']}, {questions['count']} questions of {questions['source']}, {decoding}, "
            f"{run['dtype']}, {batch_text(run)}, at most {run['max_new_tokens']} new tokens in drafts of at most "
            f"{run['draft_length']}"
        )
        machine = (
            f"{provenance['target']} on {device['name']} ({device['runtime']}), torch {versions['torch']}, "
            f"transformers {versions['transformers']}"
        )
        speedup, low, high = (float(method["speedup"][name]) for name in ("value", "low", "high"))
        times = f"{speedup:.2f} times as fast as plain decoding (95 %: {low:.2f} to {high:.2f})"
        alpha = "" if method["alpha"] is None else f"α = {method['alpha']:.2f}, "
        tokens = f"{alpha}{method['mean_accepted_tokens']:.2f} tokens per target pass"
        return cls(_printable(f"{times}, measured with {machine}: {setting}"), _printable(f"{tokens} ({setting})"))


def read_headline(path: Path | None, fingerprint: str) -> Headline | str:
    """Read the headline of a drafter; without a headline, return the reason, as the predicate of a sentence."""
    if path is None:
        return "has not been measured"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if results["provenance"]["drafter_fingerprint"] != fingerprint:
            return f"has not been measured since it changed ({RESULTS} describes an earlier state)"
        return Headline.from_results(results)
    except (LookupError, TypeError, ValueError) as error:
        return f"comes with a {RESULTS} that cannot be read ({_printable(repr(error))})"


def _printable(text: str) -> str:
    """Return text from a repository on one line, without control characters."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
