"""`drafter.json`."""

import dataclasses
import json
from pathlib import Path

import pytest

from drafter_trainer.drafters.description import FILE_NAME, SCHEMA_VERSION, DrafterDescription
from drafter_trainer.errors import InputError

DESCRIPTION = DrafterDescription(
    name="tiny-target-drafter-de-en",
    target="tests/tiny-target",
    target_revision="sha256:0123",
    tokenizer_sha256="ab" * 32,
    pair="de-en",
    draft_length=4,
    training={"finetune": {"rows": 12, "corpus": "Sätze"}},
    versions={"torch": "2.13"},
)


def test_description_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Prevent the loss of a field, and any model's folder from being taken for a drafter."""
    with pytest.raises(InputError, match=f"{tmp_path} has no drafter.json"):
        DrafterDescription.read(tmp_path)
    (tmp_path / FILE_NAME).write_text(DESCRIPTION.to_json(), encoding="utf-8")
    assert DrafterDescription.read(tmp_path) == DESCRIPTION
    assert json.loads(DESCRIPTION.to_json())["schema_version"] == SCHEMA_VERSION
    assert "Sätze" in DESCRIPTION.to_json()


def changed(**changes: object) -> str:
    """Change what the description says; `...` leaves a field out."""
    values = json.loads(DESCRIPTION.to_json()) | changes
    return json.dumps({name: value for name, value in values.items() if value is not ...})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # A default in a field's place would be a claim that nobody made, and an unknown one dropped in silence.
        *((changed(**{name: ...}), f"lacks {name}: publish") for name in ("name", "target_revision", "draft_length")),
        (changed(training=...), "lacks training: publish"),
        (changed(early_exit=2, draft_tree=1), r"has unknown fields \['draft_tree', 'early_exit'\]"),
        # Fields of another version may bear the same names and mean something else.
        *(
            (changed(schema_version=version, unknown=1), f"has schema version {version!r}, expected {SCHEMA_VERSION}")
            for version in (0, SCHEMA_VERSION + 1, None, str(SCHEMA_VERSION))
        ),
        *((text, "has schema version None") for text in ("[]", "null", '"drafter"', "3")),
        # The reader of JSON has an exception of its own for each of the last two.
        *(
            (text, "is not JSON")
            for text in ("", changed()[:-20], b"\xff\xfe\x00", b"\x00", "[" * 100_000, "9" * 5000)
        ),
    ],
)
def test_what_is_no_description_is_refused(text: str | bytes, said: str) -> None:
    """A file cut by a broken download, or of another release, must end in a line, not in an attribute error."""
    with pytest.raises(InputError, match=f"here {said}"):
        DrafterDescription.from_json(text, "here")


FINGERPRINT = "34ed42d9d6627c3b"  # of DESCRIPTION, before weights had hashes

WRONG = {
    "name": [3, "", None],
    "target": [["a/b"], ""],
    "pair": [7, {}],
    "tokenizer_sha256": ["ab", "AB" * 32, 0],
    "draft_length": [0, -3, True, "4", 1.5, None, {}],
    "loop": [[], "lookup"],
    "training": [None, [1]],
    "versions": [{"torch": 2.13}, []],
    "files": [
        {"../x": "ab" * 32}, {"/etc/passwd": "ab" * 32}, {"a/b": "ab" * 32}, {"..": "ab" * 32}, {"a\\b": "ab" * 32},
        {".hidden": "ab" * 32}, {"": "ab" * 32}, {"table": "ab"}, {"table": 1}, ["table"],
    ],
    "weights": [
        None, {"../model.safetensors": "ab" * 32}, {"x\n": "ab" * 32}, {"model.safetensors": "no"},
        {"model.safetensors": {}},
    ],
    "adapter_of": [0, {"path": ""}, {"drafter": "a/b"}, {"drafter": "a/b", "revision": "0", "path": "x"}, "a/b"],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_field_of_the_wrong_kind_is_named(name: str, value: object) -> None:
    """Otherwise it fails somewhere within the loading, or opens a file outside of the repository."""
    with pytest.raises(InputError, match=r"^here: .*: publish the drafter again$"):
        DrafterDescription.from_json(changed(**{name: value}), "here")


def test_fingerprint_is_that_of_earlier_releases() -> None:
    """Results name the drafter that they measured: another hash of the same drafter would take its card's numbers."""
    assert DESCRIPTION.fingerprint() == FINGERPRINT
    with_weights = dataclasses.replace(DESCRIPTION, weights={"model.safetensors": "ab" * 32})
    assert with_weights.fingerprint() == FINGERPRINT
    assert dataclasses.replace(DESCRIPTION, draft_length=5).fingerprint() != FINGERPRINT
