"""The card of a self-distilled dataset."""

import copy
from typing import Any

import pyarrow as pa
import pytest
from huggingface_hub import DatasetCard

from drafter_trainer.distillation.store import ROWS
from drafter_trainer.hub.dataset_card import render_dataset_card
from tests.hub.test_card import unknown_numbers

REPO = "alice/tiny-answers-de-en"
TRAIN = {"prompts": 612, "rows": 1210, "response_tokens": 34567, "cut_by_length": 89, "looping": 13}
TRAIN |= {"languages": {"en": 1190, "de": 20}}
TRAIN |= {"dropped": {"empty completion (English)": 14, "overlap with evaluation (German)": 3}}
VALIDATION = {"prompts": 24, "rows": 47, "response_tokens": 1234, "cut_by_length": 5, "looping": 0}
CORPORA = [
    {"name": "wmt16", "repo": "wmt/wmt16", "revision": "0bea71f", "licence": "unknown"},
    {"name": "file:sentences.txt", "sha256": "5ee7"},
]
STEP = {
    "recipe": "distill",
    "settings": {
        "corpus": ["wmt16", "file:/home/somebody/sentences.txt"],
        "evaluation_questions": ["sample", "/home/somebody/questions.jsonl"],
        "max_new_tokens": 96,
        "pair": "de-en",
        "servers": ["http://secret-host:8000"],
        "temperatures": [0.0, 0.75],
    },
    "inputs": {"target": "tests/tiny-target@c0ffee"},
    "facts": {"train": TRAIN, "validation": VALIDATION | {"languages": {"en": 47}, "dropped": {}}, "corpora": CORPORA},
    "provenance": {
        "command": "distill.py --config /home/somebody/c.yaml",
        "commit": "f00d",
        "date": "2026-01-01T00:00:00+00:00",
        "versions": {"drafter_trainer": "0.1.0", "torch": "2.13.0"},
    },
}


def test_metadata_key_by_key() -> None:
    """Without the names of its data files, the Hub would read dropped rows, with other columns, as rows."""
    files = [{"split": split, "path": f"{split}/rows-*.parquet"} for split in ("train", "validation")]
    assert DatasetCard(render_dataset_card(STEP, REPO, "apache-2.0")).data.to_dict() == {
        "language": ["de", "en"],
        "license": "apache-2.0",
        "annotations_creators": "machine-generated",
        "source_datasets": ["wmt/wmt16"],
        "task_categories": ["text-generation"],
        "tags": ["speculative-decoding", "self-distillation", "synthetic"],
        "pretty_name": "tiny-answers-de-en",
        "configs": [{"config_name": "default", "data_files": files}],
    }


def test_card_has_sources_settings_and_counts() -> None:
    """Users must know where the rows come from, but not the paths and servers of the publisher."""
    text = " ".join(render_dataset_card(STEP, REPO, None).split())
    for expected in (
        "Completions of [tests/tiny-target](https://huggingface.co/tests/tiny-target), revision c0ffee, for prompts",
        "wmt16: [wmt/wmt16](https://huggingface.co/datasets/wmt/wmt16), revision 0bea71f, license unknown",
        "file:sentences.txt, SHA-256 5ee7",
        "evaluation questions were removed: sample, questions.jsonl.",
        "| temperatures | 0; 0.75 |",
        "| max new tokens | 96 |",
        "| rows | 1210 | 47 |",
        "| response tokens | 34567 | 1234 |",
        "| train | empty completion (English) | 14 |",
        "| train | overlap with evaluation (German) | 3 |",
        "- train: en 1190, de 20",
        "distill.py --config c.yaml 2026-01-01T00:00:00+00:00, commit `f00d`, drafter_trainer 0.1.0, torch 2.13.0.",
        'load_dataset("alice/tiny-answers-de-en", split="train")',
        "Unknown: no license was named when this dataset was published.",
    ):
        assert expected in text
    assert "/home" not in text
    assert "secret-host" not in text


@pytest.mark.parametrize("field", list(ROWS), ids=lambda field: field.name)
def test_every_column_is_described(field: pa.Field) -> None:
    """A new column of the store that the card does not explain would be misunderstood."""
    columns = render_dataset_card(STEP, REPO, "mit").partition("| column")[2]
    row = columns.partition(f"| {field.name} | `{field.type}` | ")[2]  # list<item> would be read as HTML
    assert len(row.partition(" |\n")[0]) > 5


def test_every_number_is_in_the_step() -> None:
    """As on a drafter's card, a number that is typed by hand is found."""
    text, _, columns = render_dataset_card(STEP, REPO, "mit").partition("| column")
    text += columns.partition("\n\n")[2]  # without the descriptions of the columns
    assert unknown_numbers(text, [STEP]) == []
    assert unknown_numbers(text.replace("34567", "34568"), [STEP])


def test_card_without_languages_drops_and_corpora() -> None:
    """Steps of earlier releases identified no languages, and some read no corpus: both must be published."""
    early: dict[str, Any] = copy.deepcopy(STEP)
    for split in ("train", "validation"):
        del early["facts"][split]["languages"]
        early["facts"][split]["dropped"] = {}
    early["facts"]["corpora"] = []
    del early["settings"]["evaluation_questions"]
    card = render_dataset_card(early, REPO, "mit")
    assert "Languages of the completions were not identified." in card
    assert "Nothing was dropped." in card
    assert "every prompt is the start token." in card
    assert "source_datasets" not in card
    assert "evaluation questions" not in card
