"""From what servers made of their requests to runs of `results.json`."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from drafter_trainer.benchmark.summary import compare_with_plain
from drafter_trainer.decoding.metrics import is_looping, mean_accepted_tokens
from drafter_trainer.results import PLAIN
from drafter_trainer.serving.measurement import EngineMethod


def summarise_engine_run(
    records: Sequence[dict[str, Any]],
    methods: Sequence[EngineMethod],
    tokenizer: PreTrainedTokenizerBase,
    description: dict[str, Any],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Turn the records of one number of requests at once into a run of `results.json`.

    Args:
        records (`Sequence[dict]`): As `measure_method` yields them, one for each method.
    Returns:
        `tuple` of the run and of its texts, as `benchmark.quality` reads them.
    """
    of_method = {record["method"]: record for record in records}
    prompts = {name: [_figures(each, tokenizer) for each in record["prompts"]] for name, record in of_method.items()}
    run = description | {
        "methods": [
            _summarise_method(method, of_method[method.name], prompts[method.name], prompts[PLAIN])
            for method in methods
        ]
    }
    asked = zip(*prompts.values())  # in one order by all methods
    return run, [{"question_id": each[0]["question_id"], "methods": dict(zip(prompts, each))} for each in asked]


def _figures(prompt: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    ids = prompt["token_ids"]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    counted = {"tokens": len(ids), "characters": len(text), "retokenised": len(tokenizer(text).input_ids) - 1}
    said = {"text": text, "looping": is_looping(ids)}
    return {key: value for key, value in prompt.items() if key != "token_ids"} | counted | said


def _summarise_method(
    method: EngineMethod, record: dict[str, Any], prompts: list[dict[str, Any]], plain: list[dict[str, Any]]
) -> dict[str, Any]:
    figures, counts, seconds = compare_with_plain(prompts, plain), record["counts"], record["seconds"]
    passes, drafted = counts["passes"], counts["drafted"]
    return (
        {"name": method.name, "draft_length": method.draft_length}
        | figures
        | {
            "seconds": seconds,
            "tokens_per_second": figures["tokens"] / seconds,
            "characters_per_second": sum(prompt["characters"] for prompt in prompts) / seconds,
            "target_passes": passes,
            "acceptance_rate": counts["accepted"] / drafted if drafted else None,
            "alpha": None,  # an engine does not say which drafts ended in a rejection
            "mean_accepted_tokens": mean_accepted_tokens(figures["tokens"], passes),
            "acceptance_by_position": [accepted / passes for accepted in counts["by_position"]] if drafted else [],
            "prompts": [
                {key: value for key, value in each.items() if key not in ("divergence", "text")} for each in prompts
            ],
        }
    )
