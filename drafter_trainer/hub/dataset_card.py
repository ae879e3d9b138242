"""The card of a self-distilled dataset, rendered from the `step.json` of its distillation and from nothing else."""

import shlex
from importlib import resources
from pathlib import PurePath
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from drafter_trainer.benchmark.report import markdown_table
from drafter_trainer.distillation.store import ROWS, SPLITS, TOP_K
from drafter_trainer.hub.card import link, plain_text, said_of_corpus
from drafter_trainer.languages import read_languages
from drafter_trainer.provenance import without_folders

TAGS = ["speculative-decoding", "self-distillation", "synthetic"]
# What decides the rows; folders and addresses among the settings are nobody else's.
_SETTINGS = (
    "temperatures",
    "samples",
    "seed",
    "max_new_tokens",
    "max_samples",
    "max_validation_samples",
    "chat_template_kwargs",
    "sanitize_control_tokens",
    "dtype",
    "engine",
    "server_kind",
    "teacher_forcing",
    "drop_looping",
)
_COLUMNS = {
    "key": "SHA-256 of target, revision, prompt, sampling settings, seed and length limit",
    "prompt_ids": "What the target was asked, through its chat template",
    "response_ids": "What it answered: its own ids, with the end token if it ended by itself",
    "topk_ids": f"Its {TOP_K} most likely ids at each position of the answer, best first; null where there are none",
    "topk_logprobs": "Their log-probabilities in nats, of the raw distribution at temperature 1",
    "finish_reason": "stop if it ended by itself, length if the limit cut it",
    "temperature": "At which it was sampled, 0 for greedy",
    "seed": "Of the sample",
    "max_new_tokens": "Length limit of the answer",
    "source_id": "Where in the corpus the prompt comes from",
    "corpus": "Name of the corpus",
    "pair": "Languages, source first",
    "engine": "What answered",
    "retokenized": "Whether only the text came back, and the ids are the tokenizer's",
    "target": "Who answered",
    "target_revision": "In which revision",
}


def render_dataset_card(step: dict[str, Any], repo_id: str, license: str | None) -> str:
    """Render the card of a dataset whose repository holds `train/rows-*.parquet` and `validation/rows-*.parquet`."""
    template = (resources.files("drafter_trainer.hub") / "dataset_card_template.md").read_text(encoding="utf-8")
    facts, settings, provenance = step["facts"], step["settings"], step["provenance"]
    splits = {name: facts[name] for name in SPLITS if name in facts}
    spoken, pair = read_languages(settings.get("pair") or settings.get("languages"))
    target, _, revision = step["inputs"]["target"].rpartition("@")
    data = DatasetCardData(
        language=[language.code for language in spoken] or None,
        license=license,
        task_categories=["text-generation"],
        annotations_creators="machine-generated",
        source_datasets=[corpus["repo"] for corpus in facts["corpora"] if "repo" in corpus] or None,
        tags=TAGS,
        pretty_name=repo_id.rpartition("/")[2],
        # Beside the rows lie what was dropped and the prompts, with other columns.
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": name, "path": f"{name}/rows-*.parquet"} for name in splits],
            }
        ],
    )
    card = DatasetCard.from_template(
        data,
        template_str=template,
        repo_id=repo_id,
        pair=pair,
        spoken=" and ".join(language.name for language in spoken),
        target=link(target),
        revision=revision,
        corpora=[said_of_corpus(corpus) for corpus in facts["corpora"]],
        kept_out=", ".join(PurePath(name).name for name in settings.get("evaluation_questions", ())),
        settings=[(key.replace("_", " "), plain_text(settings[key])) for key in _SETTINGS if key in settings],
        columns=markdown_table(
            ["column", "type", "meaning"], [[field.name, f"`{field.type}`", _COLUMNS[field.name]] for field in ROWS]
        ),
        counts=_counts(splits),
        dropped=[
            (name, reason, count) for name, split in splits.items() for reason, count in split["dropped"].items()
        ],
        languages=[(name, plain_text(split["languages"])) for name, split in splits.items() if "languages" in split],
        # Earlier releases recorded absolute paths.
        command=shlex.join(map(without_folders, shlex.split(provenance["command"]))),
        commit=provenance["commit"],
        date=provenance["date"],
        versions=", ".join(f"{name} {version}" for name, version in provenance["versions"].items()),
        license=license,
    )
    return str(card).rstrip() + "\n"


def _counts(splits: dict[str, dict[str, Any]]) -> str:
    """Render a row for each count that the step took, and a column for each split."""
    names = list(
        dict.fromkeys(name for split in splits.values() for name, value in split.items() if isinstance(value, int))
    )
    rows = [[name.replace("_", " "), *(str(split.get(name, "-")) for split in splits.values())] for name in names]
    return markdown_table(["count", *splits], rows)
