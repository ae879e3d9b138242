"""A drafter's card, rendered from `drafter.json` and `results.json` and from nothing else."""

import json
import shlex
from importlib import resources
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from drafter_trainer.benchmark.methods import DRAFTER, PLAIN
from drafter_trainer.benchmark.report import speedup_tables
from drafter_trainer.benchmark.results import find_method
from drafter_trainer.benchmark.statistics import Interval, Verdict, verdict
from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.drafters.loop.policy import LOOKUP, NETWORK, NGRAM
from drafter_trainer.languages import Pair, get_pair, translation_prompt

_SOURCES = {
    LOOKUP: "from what followed the same tokens earlier in the text",
    NGRAM: "from a table of what follows in {}",
    NETWORK: "from its network",
}

_COUNTED = {"answers": "the target's own answers", "texts": "text"}

TAGS = ["speculative-decoding", "assisted-generation", "draft-model", "assistant-model"]


def usage(target: str, drafter: str, pair: Pair) -> str:
    """Write the lines of Python that use a drafter.

    Args:
        target (`str`): Hub id or folder of the target.
        drafter (`str`): Hub id or folder of the drafter.
        pair (`Pair`): What is asked for.
    """
    prompt = translation_prompt(pair, pair.source.probe)
    return f"""from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{target}")
target = AutoModelForCausalLM.from_pretrained("{target}")
chat = [{{"role": "user", "content": {json.dumps(prompt, ensure_ascii=False)}}}]

drafter = AutoModelForCausalLM.from_pretrained("{drafter}", dtype=target.dtype, trust_remote_code=True)
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
output = target.generate(**inputs, assistant_model=drafter, max_new_tokens=128)"""


def render_card(
    description: DrafterDescription,
    results: dict[str, Any] | None,
    location: str,
    licence: str | None,
    notes: str = "",
) -> str:
    """Render a card.

    Args:
        description (`DrafterDescription`): What `drafter.json` says.
        results (`dict`, *optional*): What `results.json` says; without it the card has no numbers.
        location (`str`): Hub id of the drafter, or its name where it lies in a folder.
        licence (`str`, *optional*): Licence identifier.
        notes (`str`, *optional*): Text by hand, put at the end.
    Returns:
        `str`, Markdown with metadata in front.
    """
    pair = get_pair(description.pair)
    template = (resources.files("drafter_trainer.hub") / "card_template.md").read_text(encoding="utf-8")
    provenance = results["provenance"] if results else {}
    card = ModelCard.from_template(
        _metadata(description, results, licence),
        template_str=template,
        drafter=description,
        source=pair.source.name,
        target=pair.target.name,
        usage=usage(description.target, location, pair),
        longest_draft=description.loop["longest_draft"],
        sources=_said_of_sources(description),
        network=NETWORK in description.loop["sources"],
        location=location,
        tables=speedup_tables(results) if results else "",
        verdicts=[_verdict(run) for run in results["runs"]] if results else [],
        command=provenance.get("command", ""),
        commit=provenance.get("commit", ""),
        measured_target=shlex.quote(provenance.get("target", "")),
        training=_training_rows(description.training),
        versions=", ".join(f"{name} {version}" for name, version in description.versions.items()),
        licence=licence,
        notes=notes.strip(),
    )
    return str(card).rstrip() + "\n"


def _metadata(description: DrafterDescription, results: dict[str, Any] | None, licence: str | None) -> ModelCardData:
    pair = get_pair(description.pair)
    return ModelCardData(
        base_model=description.target,
        language=[pair.source.code, pair.target.code],
        library_name="transformers",
        license=licence,
        pipeline_tag="text-generation",
        tags=TAGS,
        model_name=description.name,
        eval_results=_evaluations(results) if results else None,
    )


def _evaluations(results: dict[str, Any]) -> list[EvalResult]:
    evaluations = []
    for run in results["runs"]:
        method, asked = find_method(run, DRAFTER), run["questions"]
        sampling = "greedy" if run["temperature"] == 0 else f"temperature {run['temperature']:g}, seed {run['seed']}"
        for metric, value in (
            ("speedup", method["speedup"]["value"]),
            ("mean_accepted_tokens", method["mean_accepted_tokens"]),
        ):
            evaluations.append(
                EvalResult(
                    task_type="text-generation",
                    dataset_type=asked["source"],
                    dataset_name=f"{asked['count']} questions of {asked['source']}, {run['pair']}",
                    metric_type=metric,
                    metric_name=f"{metric.replace('_', ' ')} ({sampling})",
                    metric_value=round(value, 3),
                )
            )
    return evaluations


def _said_of_sources(description: DrafterDescription) -> str:
    table = description.training.get("tune", {}).get("table", {"answers": 0})  # not said of earlier ones
    counted = " and ".join(said for name, said in _COUNTED.items() if name in table)
    return ", or ".join(_SOURCES[source].format(counted) for source in description.loop["sources"])


def _verdict(run: dict[str, Any]) -> str:
    ratio, count = Interval(**find_method(run, DRAFTER)["speedup"]), run["questions"]["count"]
    setting = "greedy" if run["temperature"] == 0 else f"at T = {run['temperature']:g} with seed {run['seed']}"
    match verdict(ratio, count):
        case Verdict.TOO_FEW:
            few = f"on {count} questions, too few for a verdict"
            return f"The drafter is {ratio.value:.2f} times as fast as {PLAIN} decoding here, {setting}, {few}."
        case Verdict.FASTER:
            fast = f"{ratio.value:.2f} times as fast as {PLAIN} decoding"
            return f"The drafter makes the target faster here, {setting}: {fast}."
        case Verdict.SLOWER:
            return f"**The drafter loses to {PLAIN} decoding here, {setting}**: {ratio.value:.2f} times as fast."
        case Verdict.NOISE:
            return f"No difference from {PLAIN} decoding can be told here, {setting}: the interval holds 1."


def _training_rows(training: dict[str, Any]) -> list[tuple[str, str]]:
    """Flatten the record of the steps to rows of a table."""
    rows = []
    for step, facts in training.items():
        for name, value in facts.items():
            text = f"{value:.4g}" if isinstance(value, float) else _plain_text(value)
            rows.append((f"{step}: {name.replace('_', ' ')}", text))
    return rows


def _plain_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_plain_text(entry)}" for key, entry in value.items()) or "none"
    if isinstance(value, list):
        return "; ".join(map(_plain_text, value)) or "none"
    return str(value)
