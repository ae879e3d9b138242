"""What stands beside every number."""

import sys

import pytest

from drafter_trainer.provenance import collect_provenance


def test_command_names_files_without_their_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results are published: the folders of the machine that measured are nobody else's."""
    given = ["--questions", "/home/alice/eval/de.jsonl", "--corpus", "file:/data/c.txt", "rows:runs/a/distill"]
    monkeypatch.setattr(
        sys, "argv", ["/opt/recipes/bench.py", *given, "--to=/srv/x", "https://hub.example/a/b", "2/3"]
    )
    assert collect_provenance()["command"] == (
        "bench.py --questions de.jsonl --corpus file:c.txt rows:runs/a/distill --to=x https://hub.example/a/b 2/3"
    )
