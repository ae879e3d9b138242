"""A drafter's card, rendered from `drafter.json` and its results files and from nothing else."""

import json
import shlex
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from drafter_trainer.benchmark.quality import quality_warning
from drafter_trainer.benchmark.report import caveats, interval_text, markdown_table, speedup_tables
from drafter_trainer.benchmark.statistics import Interval, Verdict, verdict
from drafter_trainer.decoding.sampling import describe_sampling
from drafter_trainer.drafters.compact import COMPACT
from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.drafters.loop.sources import LOOKUP, NETWORK, NGRAM
from drafter_trainer.extras import is_installed
from drafter_trainer.hub.metadata import card_metadata, corpora_of
from drafter_trainer.languages import get_pair
from drafter_trainer.results import DRAFTER, PLAIN, PROMPT_LOOKUP, find_method, say_margin, say_setting

PLOT = "acceptance.png"
_SOURCES = {
    LOOKUP: "from what followed the same tokens earlier in the text",
    NGRAM: "from a table of what follows in {}",
    NETWORK: "from its network",
}
_COUNTED = {"answers": "the target's own answers", "texts": "text"}
# What a step says of its data; the rest is how it trained, and what came out.
_DATA = ("corpora", "train", "validation", "table")
_FRESH = ("scratch", "embeddings", "layers", "pretrain")  # of the target, or of the run itself
_CURVE = "pass_milliseconds"  # a time for each draft length: for the loop, which finds it in drafter.json
IMAGE_TEXT = "AutoModelForImageTextToText"


def usage(
    target: str,
    drafter: str,
    prompt: str,
    needs_package: bool = False,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    prompting: Mapping[str, Any] | None = None,
) -> str:
    """Write the lines of Python that use a drafter.

    Args:
        needs_package (`bool`, *optional*, defaults to `False`): Whether `load_drafter` alone can load it: a LoRA
            adapter, or a compact drafter.
    """
    prompting = prompting or {}
    template, ends = "", ""
    if file := prompting.get("chat_template"):
        path = f"{drafter}/{file}" if Path(drafter).is_dir() else None
        read = f'open("{path}")' if path else f'open(hf_hub_download("{drafter}", "{file}"))'
        template = f"\ntokenizer.chat_template = {read}.read()  # the target's own tokenizer has another, or none"
    if prompting.get("stop"):
        ends = ", eos_token_id=drafter.generation_config.eos_token_id"
    options = 'add_generation_prompt=True, return_dict=True, return_tensors="pt"'
    options += "".join(f", {name}={value!r}" for name, value in (chat_template_kwargs or {}).items())
    # Some multimodal families, such as Mistral 3, are no causal language models to transformers.
    multimodal = prompting.get("auto_class") == IMAGE_TEXT
    classes = ["AutoModelForCausalLM"] * (not multimodal or not needs_package) + [IMAGE_TEXT] * multimodal
    imported, load = (
        "",
        f'AutoModelForCausalLM.from_pretrained("{drafter}", dtype=target.dtype, trust_remote_code=True)',
    )
    if needs_package:
        imported, load = "\nfrom drafter_trainer import load_drafter", f'load_drafter("{drafter}", target)'
    hub = "from huggingface_hub import hf_hub_download\n" if "hf_hub_download" in template else ""
    return f"""{hub}from transformers import {", ".join(classes)}, AutoTokenizer{imported}

tokenizer = AutoTokenizer.from_pretrained("{target}"){template}
target = {classes[-1]}.from_pretrained("{target}")
chat = [{{"role": "user", "content": {json.dumps(prompt, ensure_ascii=False)}}}]

drafter = {load}
inputs = tokenizer.apply_chat_template(chat, {options})
output = target.generate(**inputs, assistant_model=drafter, max_new_tokens=128{ends})"""


def render_card(
    description: DrafterDescription,
    measurements: dict[str, dict[str, Any]],
    location: str,
    license: str | None,
    notes: str = "",
) -> str:
    """Render a card.

    Args:
        measurements (`dict[str, dict]`): Results by the name of their file, those of the table first; without any the
            card has no numbers.
        location (`str`): Hub id of the drafter, or its name where it lies in a folder.
    Returns:
        `str`, Markdown with metadata in front. It shows the plot `acceptance.png` where the first run drafted
        anything.
    """
    template = (resources.files("drafter_trainer.hub") / "card_template.md").read_text(encoding="utf-8")
    runs = [run for results in measurements.values() for run in results["runs"]]
    table = description.training.get("tune", {}).get("table", {"answers": 0})  # earlier ones were of answers
    counted = " and ".join(said for name, said in _COUNTED.items() if name in table)
    variables: dict[str, Any] = {}
    for facts in description.training.values():
        variables |= facts.get("chat_template_kwargs") or {}
    initialization = description.training.get("finetune", {}).get("initialization", "scratch")
    card = ModelCard.from_template(
        card_metadata(description, measurements, license),
        template_str=template,
        drafter=description,
        purpose=_purpose(description),
        knows=_knows(description),
        usage=usage(
            description.target,
            location,
            description.example,
            bool(description.adapter_of) or COMPACT in description.weights,
            variables,
            description.prompting,
        ),
        compact=COMPACT in description.weights,
        base=_base(description.adapter_of),
        asks_network=NETWORK in description.loop["sources"],
        networkless="tune" in description.training and "finetune" not in description.training,
        longest_draft=description.loop["longest_draft"],
        sources=", or ".join(_SOURCES[source].format(counted) for source in description.loop["sources"]),
        counted=counted,
        location=location,
        warning=quality_warning(measurements.values()),
        headline=_headline(runs[0]) if runs else "",
        measured=[_measured(name, results) for name, results in measurements.items()],
        plot=PLOT if runs and _is_drawn(runs[0]) else "",
        plotted=_asked(runs[0]) if runs else "",
        where=_where_it_helps(runs) if runs else "",
        equality=[_equality(run) for run in runs],
        data=_data_rows(description.training),
        started_from="" if initialization in _FRESH else initialization,
        hyperparameters=_hyperparameter_rows(description.training),
        size=plain_text(description.size) if description.size else "",
        versions=", ".join(f"{name} {version}" for name, version in description.versions.items()),
        # The same is said of several files: once is enough.
        caveats=list(dict.fromkeys(said for results in measurements.values() for said in caveats(results))),
        license=license,
        notes=notes.strip(),
    )
    return str(card).rstrip() + "\n"


def _is_drawn(run: dict[str, Any]) -> bool:
    """Tell whether there is a plot of a run: something was drafted, and matplotlib is installed."""
    return is_installed("matplotlib") and any(method["acceptance_by_position"] for method in run["methods"])


def _purpose(description: DrafterDescription) -> str:
    """Write in which of its answers the drafter helps the target, to stand behind the target's name."""
    if (pair := description.translation) is not None:
        return f" where it translates {pair.source.name} to {pair.target.name}"
    names = [language.name for language in description.spoken]
    return f" where it answers in {' or '.join(names)}" if names else ""


def _knows(description: DrafterDescription) -> str:
    if (pair := description.translation) is not None:
        return f"It knows one direction: {pair.source.name} to {pair.target.name}."
    names = [language.name for language in description.spoken]
    return f"It knows {' and '.join(names) or 'the answers that it was trained on'} alone."


def _headline(run: dict[str, Any]) -> str:
    """Say in a sentence what the drafter does to the target's speed in the first run."""
    ratio, count = Interval(**find_method(run, DRAFTER)["speedup"]), run["questions"]["count"]
    setting = _asked(run)
    match verdict(ratio, count):
        case Verdict.TOO_FEW:
            few = f"on {count} questions, too few for a verdict"
            return f"The drafter is {ratio.value:.2f} times as fast as {PLAIN} decoding ({setting}), {few}."
        case Verdict.FASTER:
            fast = f"{ratio.value:.2f} times as fast as {PLAIN} decoding"
            return f"The drafter makes the target faster ({setting}): {fast}."
        case Verdict.SLOWER:
            return f"**The drafter loses to {PLAIN} decoding ({setting})**: {ratio.value:.2f} times as fast."
        case Verdict.NOISE:
            return f"No difference from {PLAIN} decoding can be told ({setting}): the interval holds 1."


def _asked(run: dict[str, Any]) -> str:
    return f"{run['pair']} {run['task']}, {_decoded(run)}"


def _decoded(run: dict[str, Any]) -> str:
    engine = f", {say_setting(run)}" if "engine" in run else ""
    return f"{describe_sampling(run['temperature'], run['seed'])}{engine}"


def _measured(name: str, results: dict[str, Any]) -> dict[str, str]:
    """Collect what the card says of one results file: the command that made it, and its tables."""
    provenance = results["provenance"]
    said = {key: provenance.get(key, "") for key in ("command", "commit", "date", "target")}
    said["target"] = shlex.quote(said["target"])
    return said | {"name": name, "tables": speedup_tables(results)}


def _where_it_helps(runs: list[dict[str, Any]]) -> str:
    """Render a row for each run: what was asked, the speedup, the best prompt lookup beside it, and the verdict."""
    rows = []
    for run in runs:
        pair, ratio = get_pair(run["pair"]), Interval(**find_method(run, DRAFTER)["speedup"])
        lookups = [
            Interval(**method["speedup"]) for method in run["methods"] if method["name"].startswith(PROMPT_LOOKUP)
        ]
        best = max(lookups, key=lambda interval: interval.value, default=None)
        said = verdict(ratio, run["questions"]["count"])
        rows.append(
            [
                f"{pair.source.name} to {pair.target.name}" if pair.is_translation else pair.target.name,
                run["task"],
                _decoded(run),
                str(run["questions"]["count"]),
                interval_text(ratio),
                interval_text(best) if best else "-",
                f"**{said}**" if said is Verdict.SLOWER else str(said),
            ]
        )
    header = ["languages", "task", "decoding", "questions", "drafter (95 %)", "best prompt lookup (95 %)", "verdict"]
    return markdown_table(header, rows)


def _equality(run: dict[str, Any]) -> str:
    """Say how the drafter's outputs of a run compare with plain decoding's."""
    compared, said = find_method(run, DRAFTER)["losslessness"], _asked(run)
    if compared is None:
        return f"{said}: sampled, where single outputs cannot tell."
    text = f"{said}, {run['dtype']}: {compared['equal']} of {compared['prompts']} outputs equal plain decoding's"
    if not compared["divergences"]:
        return f"{text}, token for token."
    return f"{text}; where the others part from it, {say_margin(compared['divergences'])}."


def _data_rows(training: dict[str, Any]) -> list[tuple[str, str]]:
    """List the corpora of each step with their revisions, and what was taken of them."""
    rows = [(f"{step}: corpus", said_of_corpus(corpus)) for step, corpus in corpora_of(training)]
    return rows + [
        (f"{step}: {name}", plain_text(facts[name]))
        for step, facts in training.items()
        for name in _DATA[1:]
        if name in facts
    ]


def said_of_corpus(corpus: dict[str, Any]) -> str:
    """Name a corpus with its revision and license, as far as its step recorded them."""
    said = corpus["name"]
    if "repo" in corpus:
        said += (
            f": [{corpus['repo']}](https://huggingface.co/datasets/{corpus['repo']}), revision {corpus['revision']}"
        )
    if "sha256" in corpus:
        said += f", SHA-256 {corpus['sha256']}"
    return f"{said}, license {corpus['licence']}" if "licence" in corpus else said  # the key of `describe_corpus`


def link(repo: str) -> str:
    """Link to a model on the Hub."""
    return f"[{repo}](https://huggingface.co/{repo})"


def _base(adapter_of: dict[str, str]) -> str:
    """Name the drafter that an adapter goes over: a link for one on the Hub, of a folder its name alone."""
    if not adapter_of:
        return ""
    drafter, revision = adapter_of["drafter"], adapter_of["revision"]
    name = Path(drafter).name if revision.startswith("sha256:") else link(drafter)
    return f"{name}, revision {revision}"


def _hyperparameter_rows(training: dict[str, Any]) -> list[tuple[str, str]]:
    """Flatten what else the steps recorded to rows of a table."""
    return [
        (f"{step}: {name.replace('_', ' ')}", plain_text(value))
        for step, facts in training.items()
        for name, value in facts.items()
        if name not in (*_DATA, _CURVE)
    ]


def plain_text(value: Any) -> str:
    """Write a recorded value as text for a cell of a table."""
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {plain_text(entry)}" for key, entry in value.items()) or "none"
    if isinstance(value, list):
        return "; ".join(map(plain_text, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
