"""The card of a drafter, rendered from `drafter.json` and its results files only."""

import json
import statistics
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Template

from drafter_trainer.benchmark.quality import failed_checks, quality_warning
from drafter_trainer.benchmark.report import caveats, interval_text, markdown_table, speedup_tables
from drafter_trainer.benchmark.statistics import Interval, Verdict, verdict
from drafter_trainer.decoding.sampling import describe_sampling
from drafter_trainer.drafters.compact import COMPACT
from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.extras import is_installed
from drafter_trainer.languages import Pair, get_pair
from drafter_trainer.results import DRAFTER, PROMPT_LOOKUP, MeasuredRun, Results, batch_text, find_method, margin_text

PLOT = "acceptance.png"
_TAGS = ["speculative-decoding", "assisted-generation", "draft-model", "assistant-model"]
_DATA = ("train", "validation", "table")  # facts of a step about its data, in addition to its corpora
_VERDICTS = ["languages", "task", "decoding", "questions", "drafter (95 %)", "best prompt lookup (95 %)", "verdict"]
_CURVE = "pass_milliseconds"  # a time for each draft length; only the loop needs it
# By their keys in the facts of a table; "answers" of earlier releases
_COUNTED = dict.fromkeys(("completions", "answers"), "the target's own completions") | {"texts": "text"}


def usage(description: DrafterDescription, location: str, target: str | None = None) -> str:
    """Render the Python code that uses a drafter.

    Args:
        location (`str`): Hub id or folder of the drafter.
        target (`str`, *optional*): Hub id or folder of the target; by default the Hub id that the drafter names.
    """
    variables: dict[str, Any] = {}
    for facts in description.training.values():
        variables |= facts.get("chat_template_kwargs") or {}
    return Template(read_template("usage_template.jinja"), trim_blocks=True).render(
        target=target or description.target,
        drafter=location,
        is_folder=Path(location).is_dir(),
        needs_package=bool(description.adapter_of) or COMPACT in description.weights,
        prompt=json.dumps(description.example, ensure_ascii=False),
        prompting=description.prompting,
        variables="".join(f", {name}={value!r}" for name, value in variables.items()),
    )


def read_template(name: str) -> str:
    """Read a template of this folder."""
    return (resources.files("drafter_trainer.hub") / name).read_text(encoding="utf-8")


def render_card(
    description: DrafterDescription,
    measurements: dict[str, Results],
    location: str,
    license: str | None,
    notes: str = "",
) -> str:
    """Render a card.

    Args:
        measurements (`dict[str, Results]`): Results by the name of their file, the main results first. Without results
            the card has no numbers.
        location (`str`): Hub id of the drafter, or its name if it is in a folder.
    Returns:
        `str`: Markdown with metadata. It shows the plot `acceptance.png` if the first run has drafted tokens.
    """
    runs, training = [run for results in measurements.values() for run in results["runs"]], description.training
    facts, (data, hyperparameters) = [_run_facts(run) for run in runs], _training_rows(training)
    has_plot = runs and is_installed("matplotlib") and any(m["acceptance_by_position"] for m in runs[0]["methods"])
    table = training.get("tune", {}).get("table", {"answers": 0})  # earlier releases counted completions only
    card = ModelCard.from_template(
        _metadata(description, measurements, license),
        template_str=read_template("card_template.md"),
        drafter=description,
        location=location,
        license=license,
        notes=notes.strip(),
        usage=usage(description, location),
        compact=COMPACT in description.weights,
        counted=" and ".join(text for name, text in _COUNTED.items() if name in table),
        initialization=training.get("finetune", {}).get("initialization", "scratch"),
        data=data,
        hyperparameters=hyperparameters,
        runs=facts,
        verdicts=markdown_table(_VERDICTS, [run["row"] for run in facts]) if runs else "",
        measured=[
            results["provenance"] | {"name": name, "tables": speedup_tables(results)}
            for name, results in measurements.items()
        ],
        plot=PLOT if has_plot else "",
        warning=quality_warning(measurements.values()),
        # Several files may have the same caveat.
        caveats=list(dict.fromkeys(caveat for results in measurements.values() for caveat in caveats(results))),
        link=link,
        text=plain_text,
    )
    return str(card).rstrip() + "\n"


def _training_rows(training: dict[str, Any]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the data of all steps, and their hyperparameters, as rows of two tables."""
    data, others = [], []
    for step, facts in training.items():
        data += [(f"{step}: corpus", corpus_text(corpus)) for corpus in facts.get("corpora", ())]
        for name in (name for name in facts if name not in ("corpora", _CURVE)):
            (data if name in _DATA else others).append((f"{step}: {name.replace('_', ' ')}", plain_text(facts[name])))
    return data, others


def _run_facts(run: MeasuredRun) -> dict[str, Any]:
    """Return the facts of a run for the card's sentences, and its row in the table of verdicts."""
    method, count, lookup = find_method(run, DRAFTER), run["questions"]["count"], best_lookup([run])
    speedup, lossless, decoding = Interval(**method["speedup"]), method["losslessness"], decoding_text(run)
    judged = verdict(speedup, count)
    row = [pair_text(get_pair(run["pair"])), run["task"], decoding, str(count), interval_text(speedup)]
    row.append(interval_text(mean_speedup([run], lookup)) if lookup else "-")
    return {
        "setting": f"{run['pair']} {run['task']}, {decoding}",
        "count": count,
        "dtype": run["dtype"],
        "speedup": f"{speedup.value:.2f}",
        "verdict": judged.name,
        "lossless": lossless,
        "margin": margin_text(lossless["divergences"]) if lossless and lossless["divergences"] else "",
        "row": [*row, f"**{judged}**" if judged is Verdict.SLOWER else str(judged)],
    }


def pair_text(pair: Pair) -> str:
    """Return the names of a pair's languages."""
    return f"{pair.source.name} to {pair.target.name}" if pair.is_translation else pair.target.name


def decoding_text(run: MeasuredRun) -> str:
    """Return the decoding of a run as text, such as "greedy" or "T = 1, seed 0", with the engine if there was one."""
    engine = f", {batch_text(run)}" if "engine" in run else ""
    return describe_sampling(run["temperature"], run["seed"]) + engine


def best_lookup(runs: Sequence[MeasuredRun]) -> str | None:
    """Return the name of prompt lookup at its fastest draft length, if the runs have it."""
    names = [method["name"] for method in runs[0]["methods"] if method["name"].startswith(PROMPT_LOOKUP)]
    return max(names, key=lambda name: mean_speedup(runs, name).value, default=None)


def mean_speedup(runs: Sequence[MeasuredRun], name: str) -> Interval:
    """Return a method's speedup with its interval; for several seeds the mean, the lowest and the highest speedup."""
    found = [Interval(**find_method(run, name)["speedup"]) for run in runs]
    values = [speedup.value for speedup in found]
    return found[0] if len(found) == 1 else Interval(statistics.mean(values), min(values), max(values))


def corpus_text(corpus: dict[str, Any]) -> str:
    """Return the name of a corpus with its revision and license, as far as its step recorded them."""
    text = corpus["name"]
    if "repo" in corpus:
        text += f": {link(corpus['repo'], 'datasets/')}, revision {corpus['revision']}"
    if "sha256" in corpus:
        text += f", SHA-256 {corpus['sha256']}"
    return f"{text}, license {corpus['licence']}" if "licence" in corpus else text  # the key of `describe_corpus`


def link(repo: str, kind: str = "") -> str:
    """Return a Markdown link to a repository on the Hub."""
    return f"[{repo}](https://huggingface.co/{kind}{repo})"


def plain_text(value: Any) -> str:
    """Write a recorded value as text for a cell of a table."""
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {plain_text(entry)}" for key, entry in value.items()) or "none"
    if isinstance(value, list):
        return "; ".join(map(plain_text, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _metadata(description: DrafterDescription, measurements: dict[str, Results], license: str | None) -> ModelCardData:
    corpora = [corpus for facts in description.training.values() for corpus in facts.get("corpora", ())]
    # The Hub's specification has no key for the revision of `base_model`, and no value of `base_model_relation` for a
    # draft model. The Hub keeps unknown keys.
    data = ModelCardData(
        base_model=description.target,
        base_model_revision=description.target_revision,
        library_name="peft" if description.adapter_of else "transformers",
        pipeline_tag="text-generation",
        language=[language.code for language in description.spoken] or None,
        license=license,
        license_link=f"https://huggingface.co/{description.target}" if license == "other" else None,
        datasets=list(dict.fromkeys(corpus["repo"] for corpus in corpora if "repo" in corpus)) or None,
        tags=_TAGS,
    )
    evaluations = [result for name, results in measurements.items() for result in _evaluations(name, results)]
    if evaluations:  # without evaluations, `model_name` would be written as an unknown key
        data.model_name, data.eval_results = description.name, evaluations
    return data


def _evaluations(file: str, results: Results) -> Iterator[EvalResult]:
    """Yield the drafter's unrounded figures for the `model-index`, if the target performs the task.

    The revision of a dataset is the hash of the questions, since the Hub's client merges results of equal datasets.
    """
    device = results["provenance"]["device"]
    for run in results["runs"]:
        if failed_checks(run) or "engine" in run:  # the index has no key for the number of requests
            continue
        method, questions = find_method(run, DRAFTER), run["questions"]
        bounds, decoding = method["speedup"], decoding_text(run)
        figures = {"speedup": bounds["value"], "speedup_low": bounds["low"], "speedup_high": bounds["high"]}
        settings = {key: run[key] for key in ("task", "temperature", "seed", "dtype", "max_new_tokens")}
        for metric, value in (figures | {"mean_accepted_tokens": method["mean_accepted_tokens"]}).items():
            yield EvalResult(
                task_type="text-generation",
                task_name=run["task"],
                dataset_type=questions["source"],
                dataset_name=f"{questions['count']} questions of {questions['source']}, {run['pair']}",
                dataset_config=run["pair"],
                dataset_revision=questions["sha256"],
                metric_type=metric,
                metric_name=f"{metric.replace('_', ' ')} ({decoding})",
                metric_value=value,
                metric_args=settings | {"device": f"{device['name']} ({device['runtime']})", "file": file},
            )
