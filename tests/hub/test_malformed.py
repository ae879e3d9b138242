"""Malformed repositories, cards and results: each ends in a clear error of one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import RepoCard
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from drafter_trainer import publish
from drafter_trainer.drafters.description import FILE_NAME, DrafterDescription, hash_file
from drafter_trainer.drafters.load import load_drafter
from drafter_trainer.drafters.loop.repository import TABLE, VOCABULARY
from drafter_trainer.errors import InputError
from drafter_trainer.hub.card import render_card
from tests.drafters.loop.conftest import describe, published
from tests.hub.conftest import results_for
from tests.loopback_hub import read_card

__all__ = ["published"]  # a fixture, for pytest to find

NAME = "tiny-drafter-de-en"


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "drafter"))


def error_of(folder: Path, target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> str:
    """Load a drafter; return the error's message, if there is one. Any other exception fails the test."""
    message = ""
    try:
        load_drafter(str(folder), target_model, tokenizer)
    except InputError as error:
        message = str(error)
    assert len(message) < 2000
    return message


DAMAGE = {
    "truncated header": lambda content: content[:7],
    "truncated": lambda content: content[: len(content) // 2],
    "first bit": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "a byte of the header": lambda content: content[:12] + bytes([content[12] ^ 0x55]) + content[13:],
    "longer header": lambda content: content[:8] + b"\x00\xff{[" + content[8:],
    "empty": lambda content: b"",
    "not text": lambda content: b"\xff\xfe\x00",
    "other JSON": lambda content: b'{"model": [1]}',
    "a list": lambda content: b"[]",
}


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "model.safetensors", VOCABULARY, TABLE),
        *("tokenizer.json", "tokenizer_config.json", "generation_config.json"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_malformed_file_is_rejected_or_harmless(folder, target_model, tokenizer, name) -> None:
    """A file can be altered together with its hash, and must not lead to a traceback."""
    values, whole = json.loads((folder / FILE_NAME).read_text(encoding="utf-8")), (folder / name).read_bytes()
    values["weights"] = {}
    # With another hash, the drafter's own tokenizer is read for a comparison.
    values["tokenizer_sha256"] = "0" * 64 if name.startswith("tokenizer") else values["tokenizer_sha256"]
    for damage in DAMAGE.values():
        (folder / name).write_bytes(damage(whole))
        values["files"] = {file: hash_file(folder / file) for file in values["files"]}
        (folder / FILE_NAME).write_text(json.dumps(values), encoding="utf-8")
        message = error_of(folder, target_model, tokenizer)
        assert message or not name.startswith("tokenizer")


@pytest.mark.parametrize("pair", ["", "x", "de-en-fr", "\x00", "\u2028-en"])
def test_unknown_pair_is_rejected(folder, target_model, tokenizer, pair) -> None:
    """A repository on the Hub can contain any text, and must not lead to a traceback."""
    describe(folder, pair=pair)
    assert error_of(folder, target_model, tokenizer)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin"])
def test_pickle_is_not_read(folder, target_model, tokenizer, name) -> None:
    """A pickle can run any code, so it is never loaded in place of the weights."""
    (folder / "model.safetensors").rename(folder / name)
    describe(folder, weights={})
    assert error_of(folder, target_model, tokenizer)


LINES = ["", "---", "a: b", "\n---\n", "| x |", "{{ 1 }}", "{% if %}", "- x", "#", "'", '"', "\x00", "\u2028"]
ODD = [None, True, float("nan"), -1e300, [], {}, [[1], {"a": None}], {"\n---\n": ["---"]}]


@pytest.mark.parametrize("value", [*LINES, *ODD], ids=repr)
def test_card_is_well_formed_with_any_value(published: Path, value: Any) -> None:
    """A fact of training, or a hand-written note, must not end the metadata or truncate the card."""
    description = DrafterDescription.read(published)
    line = value if isinstance(value, str) else "mit"
    description.training["finetune"] = {"fact": value, line: value}
    text = render_card(description, {}, "alice/x", line, line)
    data, errors = read_card(text.encode())
    assert errors == []
    assert data["base_model"] == "tests/tiny-target"
    assert RepoCard(text).data.to_dict()["pipeline_tag"] == "text-generation"


@pytest.mark.parametrize(
    "damage",
    [
        *({"schema_version": value} for value in (None, 0, "1", [])),
        *({"provenance": value} for value in (None, [], {}, {"drafter": None}, {"drafter": NAME, "command": [{}]})),
        *({"runs": value} for value in (None, {}, "runs", [None], [{}], [[1]], [{"methods": []}])),
    ],
    ids=json.dumps,
)
def test_malformed_results_are_not_published(tmp_path, published, target, damage) -> None:
    """Results are read before anything is written: no folder may be incomplete."""
    values = results_for(NAME, DrafterDescription.read(published).fingerprint())
    (tmp_path / "results.json").write_text(json.dumps(values | damage), encoding="utf-8")
    with pytest.raises(InputError):
        publish(published, target, tmp_path / "to", results=tmp_path)
    assert not (tmp_path / "to").exists()
