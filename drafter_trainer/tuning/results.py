"""The files that tuning writes into a drafter's folder."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from drafter_trainer.atomic import write_json
from drafter_trainer.benchmark.report import markdown_table
from drafter_trainer.decoding.replay import Costs
from drafter_trainer.drafters.loop.repository import TABLE, VOCABULARY
from drafter_trainer.drafters.loop.sources import NETWORK, NGRAM
from drafter_trainer.drafters.ngram import table_bytes
from drafter_trainer.drafters.vocabulary import vocabulary_bytes
from drafter_trainer.errors import InputError
from drafter_trainer.tuning.search import Candidate

TRIALS = "trials.json"
COSTS = "costs.json"


def files_of(choice: Candidate, tokenizer_sha256: str) -> dict[str, bytes]:
    """Return the draft vocabulary and the n-gram table of a choice, where it has them, by file name."""
    files = {}
    if choice.draft_ids is not None and NETWORK in choice.settings.sources:
        files[VOCABULARY] = vocabulary_bytes(choice.draft_ids)
    if choice.slots is not None and NGRAM in choice.settings.sources:
        files[TABLE] = table_bytes(choice.slots, tokenizer_sha256)
    return files


def write_costs(folder: Path, costs: Costs) -> None:
    """Write the measured costs, for other tunings on the same machine."""
    write_json(folder / COSTS, asdict(costs))


def read_costs(folder: Path, longest: int) -> Costs:
    """Read the costs that `write_costs` wrote, for drafts of at most `longest` tokens."""
    path = folder / COSTS
    if not path.is_file():
        raise InputError(f"{folder} has no {COSTS}: name the folder of a tuning")
    try:
        costs = Costs(**json.loads(path.read_text(encoding="utf-8")))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if (timed := len(costs.passes) - 1) < longest:
        raise InputError(
            f"{path} has the times of drafts of up to {timed} tokens: give longest_draft {timed}, or measure again"
        )
    return replace(costs, passes=costs.passes[: longest + 1], sampling_passes=costs.sampling_passes[: longest + 1])


def trials_table(trials: list[dict[str, Any]]) -> str:
    """Render the trials; the best one of each setting is marked."""
    best = {}
    for trial in trials:
        best[trial["what"]] = max(best.get(trial["what"], 0.0), trial["speedup"])
    rows = [
        [
            trial["what"],
            trial["value"] + (" *" if trial["speedup"] == best[trial["what"]] else ""),
            f"{trial['speedup']:.2f}x",
            f"{trial['tokens_per_pass']:.2f}",
            f"{trial['drafting_milliseconds']:.1f}",
            f"{trial['step_milliseconds']:.2f}",
        ]
        for trial in trials
    ]
    header = ["setting", "value", "speedup", "tokens per pass", "drafting, ms per round", "step, ms"]
    return markdown_table(header, rows)
