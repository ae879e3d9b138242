"""Files that appear whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from drafter_trainer.atomic import write_whole


def fail_halfway(path: Path) -> None:
    path.write_text("half", encoding="utf-8")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_interrupted_write_keeps_what_was_there(tmp_path: Path) -> None:
    """Emptied before the new content is whole, a results file would be lost when the disk fills up."""
    (tmp_path / "a.json").write_text("old", encoding="utf-8")
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a.json", fail_halfway)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == "old"


def test_content_reaches_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Renamed first, a file can be empty after a power failure; a disk that is full may say so only on fsync."""
    (tmp_path / "a.json").write_text("old", encoding="utf-8")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a.json", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == "old"


def test_remains_do_not_match_the_final_pattern(tmp_path: Path) -> None:
    """What a killed process leaves must not be read as a shard or a model by its name's beginning."""
    partial = []
    write_whole(tmp_path / "rows-0.parquet", lambda path: (partial.append(path), path.touch()))
    assert partial[0].parent == tmp_path
    assert partial[0].name.startswith(".partial-")
    assert not partial[0].match("rows-*")
