"""Credentials are found by their values and by their look, and never shown."""

from pathlib import Path

import pytest

from drafter_trainer.credentials import find_credential, find_path, redact
from drafter_trainer.provenance import collect_provenance

PASSWORDS = ("swordfish", "Schwertgrößen", "メカジキ", "!$%&+,;=")
LOOKS = ("hf_" + "aB3" * 12, "ghp_" + "aB3" * 12, "sk-" + "aB3_" * 10, "AKIA" + "AB3D" * 4)


@pytest.mark.parametrize("secret", [*LOOKS, *(f"alice:{word}" for word in PASSWORDS)])
def test_what_looks_like_a_credential_is_found(tmp_path: Path, secret: str) -> None:
    """A token in a file of somebody else, or a password in the address of a server, would be published."""
    path, text = tmp_path / "file", f'{{"command": "run --servers http://{secret}@host:8000/v1"}}'
    path.write_text(text, encoding="utf-8")
    assert find_credential(path) == "text that looks like a token, a key or a password"
    assert redact(text) == '{"command": "run --servers http://***@host:8000/v1"}'


def test_weights_are_no_password(tmp_path: Path) -> None:
    """Among millions of bytes some spell an address by chance; the drafter could not be published."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x9d\xab://\xbc{o5=\xed\x1d:\xb9<\x04\x06\x8b@\xbcK)2")
    assert find_credential(path) is None


@pytest.mark.parametrize("name", ["HF_TOKEN", "OPENAI_API_KEY", "some_password"])
def test_value_in_the_environment_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A key of a service that nobody thought of looks like nothing."""
    monkeypatch.setenv(name, "plain words")
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"\0" * 100_000 + b"plain words" + b"\0" * 10)
    assert find_credential(path) in (f"the value of {name}", "the value of the Hub's token")
    assert redact("of plain words") == "of ***"


def test_ordinary_text_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A drafter that cannot be published for its own name is no safer."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "a model card")
    monkeypatch.setenv("PASSWORD", "card")
    text = "a model card with hf_hub, https://host:8000/a@b, sk-learn, http://a/b:c and org/model@0123abc"
    path, empty = tmp_path / "file", tmp_path / "empty"
    path.write_text(text)
    empty.touch()
    assert find_credential(path) is None
    assert find_credential(empty) is None
    assert redact(text) == text


def test_recorded_command_holds_none_and_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands in results.json and on the card: the folders of the machine that measured are nobody else's."""
    monkeypatch.setattr("sys.argv", ["/opt/distill.py", "--servers", "http://alice:swordfish@host:8000", LOOKS[0]])
    assert collect_provenance()["command"] == "distill.py --servers http://***@host:8000 ***"
    given = ["--questions", "/home/alice/eval/de.jsonl", "--corpus", "file:/data/c.txt", "rows:runs/a/distill"]
    monkeypatch.setattr("sys.argv", ["bench.py", *given, "--to=/srv/x", "https://hub.example/a/b", "2/3"])
    assert collect_provenance()["command"] == (
        "bench.py --questions de.jsonl --corpus file:c.txt rows:runs/a/distill --to=x https://hub.example/a/b 2/3"
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"initialization": "/home/somebody/base"}', "/home/somebody/base"),
        ("corpus `file:/tmp/texts/a.txt`, file:///tmp/b", "/tmp/texts/a.txt"),
        ("| base | /usr/lib/models |", "/usr/lib/models"),
        ("asks https://host/home/x/y or /v1/completions, and/or ~/home/x, </tmp/x>, runs/home/x", None),
    ],
)
def test_paths_of_this_machine_are_found(tmp_path: Path, text: str, found: str | None) -> None:
    """A card or drafter.json would tell everybody who has trained it, and where."""
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    assert find_path(tmp_path / "README.md") == found
