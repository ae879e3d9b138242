"""The folder that tuning leaves, which publishing reads."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from drafter_trainer.atomic import write_json, write_whole
from drafter_trainer.benchmark.report import markdown_table
from drafter_trainer.decoding.replay import Costs
from drafter_trainer.drafters.loop.policy import NETWORK, NGRAM
from drafter_trainer.drafters.loop.repository import TABLE, VOCABULARY
from drafter_trainer.drafters.ngram import table_bytes
from drafter_trainer.drafters.vocabulary import vocabulary_bytes
from drafter_trainer.errors import InputError
from drafter_trainer.tuning.search import Candidate

SETTINGS = "loop.json"
TRIALS = "trials.json"
COSTS = "costs.json"


def files_of(choice: Candidate, tokenizer_sha256: str) -> dict[str, bytes]:
    """Return the files of a drafter that a choice decides: its draft vocabulary and its table, where it has them."""
    files = {}
    if choice.draft_ids is not None and NETWORK in choice.settings.sources:
        files[VOCABULARY] = vocabulary_bytes(choice.draft_ids)
    if choice.slots is not None and NGRAM in choice.settings.sources:
        files[TABLE] = table_bytes(choice.slots, tokenizer_sha256)
    return files


def write_tuning(folder: Path, choice: Candidate, trials: list[dict[str, Any]], tokenizer_sha256: str) -> None:
    """Write what was chosen, its files, and every trial."""
    write_json(folder / SETTINGS, choice.settings.to_dict())
    write_json(folder / TRIALS, trials)
    for name in (VOCABULARY, TABLE):  # also of an earlier choice
        (folder / name).unlink(missing_ok=True)
    for name, content in files_of(choice, tokenizer_sha256).items():
        write_whole(folder / name, content)


def write_costs(folder: Path, costs: Costs) -> None:
    """Write what the target's passes take, for other tunings on the same machine."""
    write_json(folder / COSTS, asdict(costs))


def read_costs(folder: Path, longest: int) -> Costs:
    """Read what `write_costs` wrote.

    Args:
        longest (`int`): Tokens of the longest draft that is to be tried.
    """
    path = folder / COSTS
    if not path.is_file():
        raise InputError(f"{folder} has no {COSTS}: name the folder that tuning left")
    try:
        costs = Costs(**json.loads(path.read_text(encoding="utf-8")))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    timed = len(costs.passes) - 1
    if timed < longest:
        raise InputError(f"{path} times drafts of up to {timed} tokens: give longest_draft {timed}, or time anew")
    return replace(costs, passes=costs.passes[: longest + 1], sampling_passes=costs.sampling_passes[: longest + 1])


def trials_table(trials: list[dict[str, Any]]) -> str:
    """Render the trials; the best of each question is marked."""
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
    header = ["what", "tried", "speedup", "tokens per pass", "drafting, ms a round", "step, ms"]
    return markdown_table(header, rows)
