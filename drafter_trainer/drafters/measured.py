"""What a benchmark measured of a drafter, read from the `results.json` in its repository."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drafter_trainer.drafters.description import DrafterDescription

RESULTS = "results.json"
METHOD = "drafter"  # its name in the benchmark's tables


@dataclass(frozen=True)
class Measured:
    """Hold what was measured of a drafter in its first greedy run, or else in its first.

    Args:
        speedup, low, high (`float`): Times as fast as plain decoding, with the 95 % interval.
        alpha (`float`, *optional*): Chance that one token is accepted; `None` where nothing was drafted.
        mean_accepted_tokens (`float`): Tokens that one pass of the target yields.
        setting (`str`): What was asked, and how it was decoded.
        machine (`str`): Target, device and libraries.
    """

    speedup: float
    low: float
    high: float
    alpha: float | None
    mean_accepted_tokens: float
    setting: str
    machine: str

    @classmethod
    def from_results(cls, results: Any) -> "Measured":
        """Take it out of results.

        Raises:
            LookupError, TypeError, ValueError: If these are no results of a drafter.
        """
        runs = results["runs"]
        run = next((run for run in runs if run["temperature"] == 0), runs[0])
        method = next((method for method in run["methods"] if method["name"] == METHOD), None)
        if method is None:
            raise ValueError(f"no method is called {METHOD}")
        speedup = {name: _positive(method["speedup"][name]) for name in ("value", "low", "high")}
        asked, temperature = run["questions"], run["temperature"]
        decoded = "greedy" if temperature == 0 else f"temperature {temperature:g}"
        provenance = results["provenance"]
        device, versions = provenance["device"], provenance["versions"]
        return cls(
            speedup["value"],
            speedup["low"],
            speedup["high"],
            None if method["alpha"] is None else _positive(method["alpha"]),
            _positive(method["mean_accepted_tokens"]),
            _one_line(
                f"{run['task']} {run['pair']}, {asked['count']} questions of {asked['source']}, {decoded}, "
                f"{run['dtype']}, batch 1, at most {run['max_new_tokens']} new tokens in drafts of at most "
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


def read_measured(path: Path | None, description: DrafterDescription) -> Measured | str:
    """Read what was measured of a drafter.

    Args:
        path (`Path`, *optional*): Of `results.json`; `None` where the repository has none.
        description (`DrafterDescription`): The drafter's.
    Returns:
        `Measured`, or why nothing is known: the rest of a sentence that begins with the drafter's name.
    """
    if path is None:
        return "has not been measured"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if results["provenance"]["drafter_fingerprint"] != description.fingerprint():
            return f"has not been measured since it changed ({RESULTS} is of what it was before)"
        return Measured.from_results(results)
    except (LookupError, TypeError, ValueError) as error:
        return f"comes with a {RESULTS} that cannot be read ({_one_line(repr(error))})"


def _positive(value: Any) -> float:
    if not 0 <= value < math.inf:
        raise ValueError(f"{value} is no measurement")
    return float(value)


def _one_line(text: str) -> str:
    """Keep text out of somebody's repository from writing more than a line to a terminal."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
