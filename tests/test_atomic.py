"""Files that appear whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from drafter_trainer.atomic import write_whole


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("content", ["new", lambda path: full(path.write_text("half"))], ids=["fsync", "halfway"])
def test_a_write_that_fails_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content) -> None:
    """Emptied or renamed before the new content is on the disk, a results file is lost when the disk fills up."""
    monkeypatch.setattr(os, "fsync", full)
    (tmp_path / "a.json").write_text("old", encoding="utf-8")
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a.json", content)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == "old"


def test_remains_do_not_match_the_final_pattern(tmp_path: Path) -> None:
    """What a killed process leaves must not be read as a shard or a model by its name's beginning."""
    partial = []
    write_whole(tmp_path / "rows-0.parquet", lambda path: (partial.append(path), path.touch()))
    assert partial[0].parent == tmp_path
    assert partial[0].name.startswith(".partial-")
    assert not partial[0].match("rows-*")
