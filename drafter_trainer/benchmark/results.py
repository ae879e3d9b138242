"""`results.json`: what a benchmark measured, from which table, card and plots are rendered.

    {schema_version, provenance, runs: [{pair, task, temperature, seed, draft_length, dtype, max_new_tokens, questions,
     methods: [{name, speedup: {value, low, high}, ...}]}]}

`provenance` names target, drafter, device, versions, command and commit. Each of `methods` has its name, draft
length, totals, `speedup` with its interval, acceptance, losslessness, and the figures of every prompt.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from drafter_trainer.atomic import write_whole
from drafter_trainer.benchmark.measure import Setting
from drafter_trainer.benchmark.methods import PLAIN, Method
from drafter_trainer.benchmark.statistics import paper_script_ratio, slower_share, speedup
from drafter_trainer.decoding.metrics import (
    Round,
    acceptance_by_position,
    acceptance_rate,
    alpha,
    mean_accepted_tokens,
)
from drafter_trainer.errors import InputError

SCHEMA_VERSION = 1
_RUN_KEYS = {"pair", "task", "temperature", "seed", "draft_length", "dtype", "max_new_tokens", "questions", "methods"}
_METHOD_KEYS = {"name", "draft_length", "speedup", "speedup_without_loops", "paper_script_ratio", "slower_share"}
_METHOD_KEYS |= {"tokens", "seconds", "tokens_per_second", "characters_per_second", "target_passes", "alpha"}
_METHOD_KEYS |= {"acceptance_rate", "mean_accepted_tokens", "acceptance_by_position", "losslessness", "prompts"}
_METHOD_KEYS |= {"looping_share"}


def summarise_run(
    records: Sequence[dict[str, Any]], methods: Sequence[Method], setting: Setting, description: dict[str, Any]
) -> dict[str, Any]:
    """Turn one setting's records into a run of `results.json`.

    Args:
        records (`Sequence[dict]`): As `measure` returns them.
        methods (`Sequence[Method]`): In the order of the table.
        setting (`Setting`): What they were measured under.
        description (`dict`): `pair`, `task`, `draft_length`, `dtype` and `questions` of the run.
    """
    prompts = {
        method.name: [{"question_id": record["question_id"]} | record["methods"][method.name] for record in records]
        for method in methods
    }
    return (
        description
        | asdict(setting)
        | {
            "methods": [
                _summarise_method(method, prompts[method.name], prompts[PLAIN])
                | {"lossy": method.lossy and setting.temperature > 0}
                for method in methods
            ]
        }
    )


def _summarise_method(method: Method, prompts: list[dict[str, Any]], plain: list[dict[str, Any]]) -> dict[str, Any]:
    rounds = [Round(**round_) for prompt in prompts for round_ in prompt["rounds"]]
    tokens, seconds = sum(prompt["tokens"] for prompt in prompts), sum(prompt["seconds"] for prompt in prompts)
    columns = [_column(rows, key) for rows in (prompts, plain) for key in ("tokens", "seconds")]
    steady = ~(_column(plain, "looping").astype(bool) | _column(prompts, "looping").astype(bool))
    return {
        "name": method.name,
        "draft_length": method.draft_length,
        "speedup": asdict(speedup(*columns)),
        "speedup_without_loops": asdict(speedup(*(column[steady] for column in columns))) if steady.any() else None,
        "paper_script_ratio": paper_script_ratio(
            columns[0], columns[1], _column(plain, "retokenised"), _column(plain, "seconds")
        ),
        "slower_share": slower_share(*columns),
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "characters_per_second": sum(prompt["characters"] for prompt in prompts) / seconds,
        "looping_share": float(_column(prompts, "looping").mean()),
        "target_passes": len(rounds),
        "acceptance_rate": acceptance_rate(rounds),
        "alpha": alpha(rounds),
        "mean_accepted_tokens": mean_accepted_tokens(tokens, len(rounds)),
        "acceptance_by_position": acceptance_by_position(rounds),
        "losslessness": _losslessness(prompts),
        "prompts": [_without_rounds(prompt) for prompt in prompts],
    }


def _column(prompts: list[dict[str, Any]], key: str) -> np.ndarray:
    return np.array([prompt[key] for prompt in prompts], dtype=np.float64)


def _losslessness(prompts: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Count outputs equal to plain greedy decoding; when sampling, single outputs cannot tell, and `None` says so."""
    if "divergence" not in prompts[0]:
        return None
    divergences = [
        {"question_id": prompt["question_id"]} | prompt["divergence"] for prompt in prompts if prompt["divergence"]
    ]
    return {"equal": len(prompts) - len(divergences), "prompts": len(prompts), "divergences": divergences}


def _without_rounds(prompt: dict[str, Any]) -> dict[str, Any]:
    rounds = prompt["rounds"]
    counts = {
        "target_passes": len(rounds),
        "drafted": sum(round_["drafted"] for round_ in rounds),
        "accepted": sum(round_["accepted"] for round_ in rounds),
    }
    return {key: value for key, value in prompt.items() if key not in ("rounds", "divergence")} | counts


def write_results(results: dict[str, Any], path: Path) -> None:
    """Write results, after the check that reading them makes."""
    check_results(results, str(path))
    text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_results(path: Path) -> dict[str, Any]:
    """Read and check results.

    Raises:
        InputError: If the file is missing, malformed, or of another schema.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file: run make bench first")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON ({error}): run make bench again") from error
    check_results(results, str(path))
    return results


def check_results(results: Any, place: str) -> None:
    """Raise `InputError` unless `results` follow the schema; the message names what is wrong."""
    version = results.get("schema_version") if isinstance(results, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(f"{place} is of schema version {version}, expected {SCHEMA_VERSION}: run make bench again")
    if not results.get("provenance") or not results.get("runs"):
        raise InputError(f"{place} has no provenance or no runs: run make bench again")
    for run in results["runs"]:
        if missing := _RUN_KEYS - run.keys():
            raise InputError(f"{place}: a run lacks {', '.join(sorted(missing))}: run make bench again")
        for method in run["methods"]:
            if missing := _METHOD_KEYS - method.keys():
                raise InputError(f"{place}: a method lacks {', '.join(sorted(missing))}: run make bench again")
