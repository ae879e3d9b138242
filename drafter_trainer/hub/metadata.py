"""The metadata of a drafter's card: what the Hub finds it by, and the figures that it shows beside it."""

from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from drafter_trainer.benchmark.quality import failed_checks
from drafter_trainer.decoding.sampling import describe_sampling
from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.results import DRAFTER, Results, find_method

TAGS = ["speculative-decoding", "assisted-generation", "draft-model", "assistant-model"]


def card_metadata(
    description: DrafterDescription, measurements: dict[str, Results], license: str | None
) -> ModelCardData:
    """Collect the metadata of a card."""
    evaluations = _evaluations(measurements)
    # The Hub's specification has no place for the base model's revision: `base_model` is an id alone, and
    # `base_model_relation` has no value for a model that drafts. The Hub keeps a key that it does not know, so the
    # revision has one of its own. The license "other" goes with a link to the target's card.
    data = ModelCardData(
        base_model=description.target,
        base_model_revision=description.target_revision,
        library_name="peft" if description.adapter_of else "transformers",
        pipeline_tag="text-generation",
        language=[language.code for language in description.spoken] or None,
        license=license,
        license_link=f"https://huggingface.co/{description.target}" if license == "other" else None,
        datasets=hub_datasets(description.training) or None,
        tags=TAGS,
    )
    if evaluations:  # the name goes into the index, and would be a key of its own without one
        data.model_name, data.eval_results = description.name, evaluations
    return data


def corpora_of(training: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """List what each step of a training read, as `(step, corpus)`."""
    return [(step, corpus) for step, facts in training.items() for corpus in facts.get("corpora", ())]


def hub_datasets(training: dict[str, Any]) -> list[str]:
    """List the dataset repositories on the Hub that a training read, each once."""
    return list(dict.fromkeys(corpus["repo"] for _, corpus in corpora_of(training) if "repo" in corpus))


def _evaluations(measurements: dict[str, Results]) -> list[EvalResult]:
    """Flatten the drafter's figures of every run within the limits to entries of a `model-index`, unrounded.

    A dataset's revision is the hash of the questions that were asked; without it the Hub's client would put runs over
    other questions of the same set together.
    """
    evaluations = []
    for name, results in measurements.items():
        device = results["provenance"]["device"]
        for run in results["runs"]:
            if failed_checks(run) or "engine" in run:  # the index has no place for requests at once
                continue
            method, asked = find_method(run, DRAFTER), run["questions"]
            speedup, decoding = method["speedup"], describe_sampling(run["temperature"], run["seed"])
            settings = {key: run[key] for key in ("task", "temperature", "seed", "dtype", "max_new_tokens")}
            settings |= {"device": f"{device['name']} ({device['runtime']})", "file": name}
            figures = {
                "speedup": speedup["value"],
                "speedup_low": speedup["low"],
                "speedup_high": speedup["high"],
                "mean_accepted_tokens": method["mean_accepted_tokens"],
            }
            evaluations += [
                EvalResult(
                    task_type="text-generation",
                    task_name=run["task"],
                    dataset_type=asked["source"],
                    dataset_name=f"{asked['count']} questions of {asked['source']}, {run['pair']}",
                    dataset_config=run["pair"],
                    dataset_revision=asked["sha256"],
                    metric_type=metric,
                    metric_name=f"{metric.replace('_', ' ')} ({decoding})",
                    metric_value=value,
                    metric_args=settings,
                )
                for metric, value in figures.items()
            ]
    return evaluations
