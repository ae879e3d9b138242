"""The card of a self-distilled dataset, rendered from the `step.json` of its distillation only."""

import shlex
from pathlib import PurePath
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from drafter_trainer.benchmark.report import markdown_table
from drafter_trainer.distillation.store import ROWS, SPLITS
from drafter_trainer.hub.card import corpus_text, link, plain_text, read_template
from drafter_trainer.languages import read_languages
from drafter_trainer.provenance import without_folders


def render_dataset_card(step: dict[str, Any], repo_id: str, license: str | None) -> str:
    """Render the card of a dataset with the files `train/rows-*.parquet` and `validation/rows-*.parquet`."""
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
        tags=["speculative-decoding", "self-distillation", "synthetic"],
        pretty_name=repo_id.rpartition("/")[2],
        # The folders have other Parquet files too: dropped rows and prompts, with other columns.
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": name, "path": f"{name}/rows-*.parquet"} for name in splits],
            }
        ],
    )
    counted = dict.fromkeys(name for split in splits.values() for name, count in split.items() if type(count) is int)
    counts = [[name.replace("_", " "), *(str(split.get(name, "-")) for split in splits.values())] for name in counted]
    card = DatasetCard.from_template(
        data,
        template_str=read_template("dataset_card_template.md"),
        repo_id=repo_id,
        license=license,
        pair=pair,
        spoken=" and ".join(language.name for language in spoken),
        target=link(target),
        revision=revision,
        corpora=[corpus_text(corpus) for corpus in facts["corpora"]],
        decontaminated=", ".join(PurePath(name).name for name in settings.get("evaluation_questions", ())),
        settings=settings,
        splits=splits,
        counts=markdown_table(["count", *splits], counts),
        columns=ROWS,
        # Earlier releases recorded absolute paths.
        command=shlex.join(map(without_folders, shlex.split(provenance["command"]))),
        provenance=provenance,
        text=plain_text,
    )
    return str(card).rstrip() + "\n"
