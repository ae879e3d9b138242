"""Summarize the records of a measurement as a run of `results.json`."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from drafter_trainer.benchmark.measure import Setting
from drafter_trainer.benchmark.methods import Method
from drafter_trainer.benchmark.statistics import Timings, paper_script_ratio, slower_share, speedup
from drafter_trainer.decoding.metrics import Round, acceptance_figures, cost_ratio, is_looping, mean_accepted_tokens
from drafter_trainer.results import PLAIN
from drafter_trainer.serving.commands import EngineMethod

Prompts = list[dict[str, Any]]  # the figures of one method, one entry for each question


def summarize_run(
    records: Sequence[dict[str, Any]], methods: Sequence[Method], setting: Setting, description: dict[str, Any]
) -> dict[str, Any]:
    """Summarize the records of one setting.

    Args:
        description (`dict`): `pair`, `task`, `draft_length`, `dtype` and `questions` of the run.
    """
    prompts = {
        method.name: [{"question_id": record["question_id"]} | record["methods"][method.name] for record in records]
        for method in methods
    }
    plain, summaries = prompts[PLAIN], []
    for method in methods:
        own = prompts[method.name]
        rounds = [Round(**round_) for prompt in own for round_ in prompt["rounds"]]
        figures = _summarize_outputs(method, own, plain)
        figures |= acceptance_figures(rounds, figures["tokens"]) | {
            "speedup_after_first_pass": _after_first_pass(own, plain),
            "target_passes": len(rounds),
            "time_split": _split_time(own, plain),
            "lossy": method.lossy and setting.temperature > 0,
            "prompts": [_without(prompt, "rounds") | _count_rounds(prompt["rounds"]) for prompt in own],
        }
        summaries.append(figures)
    return description | asdict(setting) | {"methods": summaries}


def summarize_engine_run(
    records: Sequence[dict[str, Any]],
    methods: Sequence[EngineMethod],
    tokenizer: PreTrainedTokenizerBase,
    description: dict[str, Any],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Summarize the records of an engine with one number of concurrent requests.

    Args:
        records (`Sequence[dict]`): As `measure_server` yields them, one for each method.
    Returns:
        `tuple` of the run and of the texts of its completions, as `benchmark.quality` reads them.
    """
    by_name = {record["method"]: record for record in records}
    prompts = {name: [_decode(each, tokenizer) for each in record["prompts"]] for name, record in by_name.items()}
    summaries = []
    for method in methods:
        own, counts, seconds = prompts[method.name], by_name[method.name]["counts"], by_name[method.name]["seconds"]
        passes, drafted = counts["passes"], counts["drafted"]
        figures = _summarize_outputs(method, own, prompts[PLAIN], seconds)
        figures |= {
            "target_passes": passes,
            "acceptance_rate": counts["accepted"] / drafted if drafted else None,
            "alpha": None,  # an engine does not report which drafts ended in a rejection
            "mean_accepted_tokens": mean_accepted_tokens(figures["tokens"], passes),
            "acceptance_by_position": [accepted / passes for accepted in counts["by_position"]] if drafted else [],
            "prompts": [_without(prompt) for prompt in own],
        }
        summaries.append(figures)
    questions = zip(*prompts.values())  # in the same order for all methods
    texts = [{"question_id": each[0]["question_id"], "methods": dict(zip(prompts, each))} for each in questions]
    return description | {"methods": summaries}, texts


def _decode(prompt: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Replace the token ids of an engine's record by the figures of the completion."""
    ids = prompt["token_ids"]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    return {key: value for key, value in prompt.items() if key != "token_ids"} | {
        "text": text,
        "tokens": len(ids),
        "characters": len(text),
        "retokenised": len(tokenizer(text).input_ids) - 1,
        "looping": is_looping(ids),
    }


def _summarize_outputs(
    method: Method | EngineMethod, prompts: Prompts, plain: Prompts, seconds: float | None = None
) -> dict[str, Any]:
    """Compute the figures that need no rounds; `seconds` is the total time of prompts that overlap."""
    own, baseline = Timings.from_prompts(prompts), Timings.from_prompts(plain)
    retokenized = Timings(_column(plain, "retokenised"), baseline.seconds)
    looping = _column(prompts, "looping").astype(bool)
    steady = ~(looping | _column(plain, "looping").astype(bool))
    tokens, seconds = sum(prompt["tokens"] for prompt in prompts), seconds or float(own.seconds.sum())
    losslessness = None
    if "divergence" in prompts[0]:  # single outputs cannot show whether sampling is lossless
        different = [prompt for prompt in prompts if prompt["divergence"]]
        divergences = [{"question_id": prompt["question_id"]} | prompt["divergence"] for prompt in different]
        equal = len(prompts) - len(different)
        losslessness = {"equal": equal, "prompts": len(prompts), "divergences": divergences}
    return {
        "name": method.name,
        "draft_length": method.draft_length,
        "speedup": asdict(speedup(own, baseline)),
        "speedup_without_loops": _speedup_of(steady, own, baseline),
        "paper_script_ratio": paper_script_ratio(own, retokenized),
        "slower_share": slower_share(own, baseline),
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "characters_per_second": sum(prompt["characters"] for prompt in prompts) / seconds,
        "looping_share": float(looping.mean()),
        "losslessness": losslessness,
    }


def _after_first_pass(prompts: Prompts, plain: Prompts) -> dict[str, float] | None:
    """Compute the speedup without the first target pass, which reads the prompt."""
    own, baseline = (
        Timings(
            _column(several, "tokens") - [prompt["rounds"][0]["accepted"] + 1 for prompt in several],
            _column(several, "seconds") - _column(several, "first_pass_seconds"),
        )
        for several in (prompts, plain)
    )
    return _speedup_of((own.tokens > 0) & (baseline.tokens > 0), own, baseline)


def _speedup_of(chosen: np.ndarray, own: Timings, plain: Timings) -> dict[str, float] | None:
    return asdict(speedup(own.of(chosen), plain.of(chosen))) if chosen.any() else None


def _split_time(prompts: Prompts, plain: Prompts) -> dict[str, float | None]:
    drafting, verification, total = (
        float(_column(prompts, key).sum()) for key in ("draft_seconds", "verification_seconds", "seconds")
    )
    drafted = sum(round_["drafted"] for prompt in prompts for round_ in prompt["rounds"])
    passes = sum(len(prompt["rounds"]) for prompt in plain)
    ratio = cost_ratio(drafting, drafted, float(_column(plain, "verification_seconds").sum()), passes)
    return {
        "draft_seconds": drafting,
        "verification_seconds": verification,
        "overhead_seconds": total - drafting - verification,
        "cost_ratio": ratio if drafting else None,
    }


def _count_rounds(rounds: list[dict[str, Any]]) -> dict[str, int]:
    drafted, accepted = (sum(round_[key] for round_ in rounds) for key in ("drafted", "accepted"))
    return {"target_passes": len(rounds), "drafted": drafted, "accepted": accepted}


def _without(prompt: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in prompt.items() if key not in ("divergence", "text", *keys)}


def _column(prompts: Prompts, key: str) -> np.ndarray:
    return np.array([prompt[key] for prompt in prompts], dtype=np.float64)
