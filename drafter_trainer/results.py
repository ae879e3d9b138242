"""`results.json`: what a benchmark measured, from which table, card, plots and page are rendered.

    {schema_version, provenance, runs: [{pair, task, temperature, seed, draft_length, dtype, max_new_tokens, questions,
     methods: [{name, speedup: {value, low, high}, ..., prompts: [{question_id, tokens, seconds, ...}]}]}]}

`results.schema.json` describes every key with its unit. Files are checked against it when they are written and when
they are read; docs/results_schema.md shows it as tables.
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
# Names of methods.
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
    """What was measured of one method in a run; the schema has all keys."""

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
    """Return a run's method by its name."""
    return next(method for method in run["methods"] if method["name"] == name)


def say_margin(divergences: list[dict[str, Any]]) -> str:
    """Say by how much the target preferred its own tokens where outputs part from plain decoding's."""
    margins = [divergence["margin"] for divergence in divergences if divergence["margin"] is not None]
    if not margins:
        return "by how much the target's two best logits differ is not known"
    return f"the target's two best logits differ by {max(margins):.3g} at most"


def say_setting(run: MeasuredRun) -> str:
    """Say how many requests were answered at once, and by which engine where it was not transformers."""
    if (engine := run.get("engine")) is None:
        return "batch 1"
    at_once = engine["requests_at_once"]
    return f"{at_once} {'request' if at_once == 1 else 'requests'} at once in {engine['name']} {engine['version']}"


def write_results(results: Results, path: Path) -> None:
    """Write results, after the check that reading them makes."""
    check_results(results, str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, results, indent=1)


def read_results(path: Path) -> Results:
    """Read and check results."""
    if not path.is_file():
        raise InputError(f"{path}: no such file: run make bench first")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON ({error}): run make bench again") from error
    check_results(results, str(path))
    return results


def check_results(results: Any, place: str) -> None:
    """Check results against the schema."""
    # Not at the top: an engine that loads a drafter has no need of it.
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    version = results.get("schema_version") if isinstance(results, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(f"{place} is of schema version {version}, expected {SCHEMA_VERSION}: run make bench again")
    error = best_match(Draft202012Validator(SCHEMA).iter_errors(results))
    if error is not None:
        reason = textwrap.shorten(error.message, 160)
        raise InputError(f"{place}, {error.json_path}: {reason} (see docs/results_schema.md): run make bench again")


@dataclass(frozen=True)
class Headline:
    """The figures of a drafter that its users are told: of its first greedy run, or else of its first.

    Args:
        speedup, low, high (`float`): Times as fast as plain decoding, with the 95 % interval.
        alpha (`float`, *optional*): Chance that one token is accepted; `None` where nothing was drafted.
    """

    speedup: float
    low: float
    high: float
    alpha: float | None
    mean_accepted_tokens: float
    setting: str
    machine: str

    @classmethod
    def from_results(cls, results: Any) -> "Headline":
        """Take it out of results."""
        runs = results["runs"]
        run = next((run for run in runs if run["temperature"] == 0), runs[0])
        method = next((method for method in run["methods"] if method["name"] == DRAFTER), None)
        if method is None:
            raise ValueError(f"no method is called {DRAFTER}")
        speedup = {name: float(method["speedup"][name]) for name in ("value", "low", "high")}
        asked, temperature = run["questions"], run["temperature"]
        decoded = "greedy" if temperature == 0 else f"temperature {temperature:g}"
        provenance = results["provenance"]
        device, versions = provenance["device"], provenance["versions"]
        return cls(
            speedup["value"],
            speedup["low"],
            speedup["high"],
            None if method["alpha"] is None else float(method["alpha"]),
            float(method["mean_accepted_tokens"]),
            _one_line(
                f"{run['task']} {run['pair']}, {asked['count']} questions of {asked['source']}, {decoded}, "
                f"{run['dtype']}, {say_setting(run)}, at most {run['max_new_tokens']} new tokens in drafts of at most "
                f"{run['draft_length']}"
            ),
            _one_line(
                f"{provenance['target']} on {device['name']} ({device['runtime']}), torch {versions['torch']}, "
                f"transformers {versions['transformers']}"
            ),
        )

    def say_speed(self) -> str:
        """Say what speed to expect, and where it was measured."""
        times = f"{self.speedup:.2f} times as fast as plain decoding (95 %: {self.low:.2f} to {self.high:.2f})"
        return f"{times}, measured with {self.machine}: {self.setting}"

    def say_acceptance(self) -> str:
        """Say what the target that it was trained for accepted."""
        alpha = "" if self.alpha is None else f"α = {self.alpha:.2f}, "
        return f"{alpha}{self.mean_accepted_tokens:.2f} tokens per pass ({self.setting})"


def read_headline(path: Path | None, fingerprint: str) -> Headline | str:
    """Read the headline figures of a drafter.

    Returns:
        `Headline`, or why nothing is known: the rest of a sentence that begins with the drafter's name.
    """
    if path is None:
        return "has not been measured"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if results["provenance"]["drafter_fingerprint"] != fingerprint:
            return f"has not been measured since it changed ({RESULTS} is of what it was before)"
        return Headline.from_results(results)
    except (LookupError, TypeError, ValueError) as error:
        return f"comes with a {RESULTS} that cannot be read ({_one_line(repr(error))})"


def _one_line(text: str) -> str:
    """Keep text out of somebody's repository from writing more than a line to a terminal."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
