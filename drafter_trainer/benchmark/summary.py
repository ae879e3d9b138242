"""From the records of a measurement to a run of `results.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from drafter_trainer.benchmark.measure import Setting
from drafter_trainer.benchmark.methods import Method
from drafter_trainer.benchmark.statistics import Timings, paper_script_ratio, slower_share, speedup
from drafter_trainer.decoding.metrics import (
    Round,
    acceptance_by_position,
    acceptance_rate,
    alpha,
    cost_ratio,
    mean_accepted_tokens,
)
from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.results import PLAIN, MeasuredRun


def summarise_run(
    records: Sequence[dict[str, Any]], methods: Sequence[Method], setting: Setting, description: dict[str, Any]
) -> dict[str, Any]:
    """Turn one setting's records into a run of `results.json`.

    Args:
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
    figures = compare_with_plain(prompts, plain)
    return (
        {"name": method.name, "draft_length": method.draft_length}
        | figures
        | {
            "speedup_after_first_pass": _after_first_pass(prompts, plain),
            "target_passes": len(rounds),
            "acceptance_rate": acceptance_rate(rounds),
            "alpha": alpha(rounds),
            "mean_accepted_tokens": mean_accepted_tokens(figures["tokens"], len(rounds)),
            "acceptance_by_position": acceptance_by_position(rounds),
            "prompts": [_without_rounds(prompt) for prompt in prompts],
        }
        | _split_time(prompts, plain)
    )


def compare_with_plain(prompts: list[dict[str, Any]], plain: list[dict[str, Any]]) -> dict[str, Any]:
    """Compute what the outputs and times of a method's prompts say beside plain decoding's, in the same order.

    Args:
        prompts, plain (`list[dict]`): Each with `tokens`, `characters`, `retokenised`, `seconds`, `looping`, and where
            outputs were compared `divergence`.
    """
    tokens, seconds = sum(prompt["tokens"] for prompt in prompts), sum(prompt["seconds"] for prompt in prompts)
    own, without = timings(prompts), timings(plain)
    steady = ~(_column(plain, "looping").astype(bool) | _column(prompts, "looping").astype(bool))
    return {
        "speedup": asdict(speedup(own, without)),
        "speedup_without_loops": asdict(speedup(own.of(steady), without.of(steady))) if steady.any() else None,
        "paper_script_ratio": paper_script_ratio(own, Timings(_column(plain, "retokenised"), without.seconds)),
        "slower_share": slower_share(own, without),
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "characters_per_second": sum(prompt["characters"] for prompt in prompts) / seconds,
        "looping_share": float(_column(prompts, "looping").mean()),
        "losslessness": _losslessness(prompts),
    }


def _after_first_pass(prompts: list[dict[str, Any]], plain: list[dict[str, Any]]) -> dict[str, float] | None:
    """Compute the speedup over the tokens and the time behind the pass that reads the prompt."""
    own, without = _timings_after_first_pass(prompts), _timings_after_first_pass(plain)
    several = (own.tokens > 0) & (without.tokens > 0)  # one pass may give the whole of a short answer
    return asdict(speedup(own.of(several), without.of(several))) if several.any() else None


def _timings_after_first_pass(prompts: list[dict[str, Any]]) -> Timings:
    first = np.array([prompt["rounds"][0]["accepted"] + 1 for prompt in prompts], dtype=np.float64)
    tokens = np.maximum(_column(prompts, "tokens") - first, 0)
    return Timings(tokens, _column(prompts, "seconds") - _column(prompts, "first_pass_seconds"))


def add_finetuning(run: MeasuredRun, drafters: Mapping[str, DrafterDescription]) -> None:
    """Give methods their `finetuning_tokens`, where a drafter says how many its network has learned from."""
    for method in run["methods"]:
        said = drafters.get(method["name"])
        tokens = said and said.training.get("finetune", {}).get("finetuning_tokens")
        if tokens is not None:
            method["finetuning_tokens"] = tokens


def timings(prompts: Sequence[dict[str, Any]]) -> Timings:
    """Take the timings out of a method's prompts."""
    return Timings(_column(prompts, "tokens"), _column(prompts, "seconds"))


def _column(prompts: Sequence[dict[str, Any]], key: str) -> np.ndarray:
    return np.array([prompt[key] for prompt in prompts], dtype=np.float64)


def _total(prompts: Sequence[dict[str, Any]], key: str) -> float:
    return float(_column(prompts, key).sum())


def _split_time(prompts: list[dict[str, Any]], plain: list[dict[str, Any]]) -> dict[str, Any]:
    """Sum up where the time went, and the energy where it was measured."""
    drafting, verification = (_total(prompts, f"{part}_seconds") for part in ("draft", "verification"))
    drafted = sum(round_["drafted"] for prompt in prompts for round_ in prompt["rounds"])
    plain_passes = sum(len(prompt["rounds"]) for prompt in plain)
    cost = cost_ratio(drafting, drafted, _total(plain, "verification_seconds"), plain_passes)
    split: dict[str, Any] = {
        "time_split": {
            "draft_seconds": drafting,
            "verification_seconds": verification,
            "overhead_seconds": _total(prompts, "seconds") - drafting - verification,
            "cost_ratio": cost if drafting else None,
        }
    }
    if "joules" in prompts[0]:
        split["joules_per_token"] = _total(prompts, "joules") / _total(prompts, "tokens")
    return split


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
    return {key: value for key, value in prompt.items() if key not in ("rounds", "divergence", "text")} | counts
