"""Steps: what they record, reject and resume; and files that appear whole or not at all."""

import errno
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from drafter_trainer.atomic import write_whole
from drafter_trainer.errors import InputError
from drafter_trainer.runs import FILE_NAME, Step, finished_step, read_step

SETTINGS: dict[str, Any] = {"pair": "de-en", "learning_rate": 2e-5, "corpus": ["sample"], "to": "hub"}
INPUTS = {"target": "tiny@1"}


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Tell the time by hand, and leave git and the versions of libraries alone."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr("drafter_trainer.runs.collect_provenance", lambda: {"command": "test"})
    return now


def make_step(folder: Path, changes: dict[str, Any] | None = None, **given: Any) -> Step:
    values = {"recipe": "distill", "settings": SETTINGS | (changes or {}), "inputs": INPUTS} | given
    return Step(folder, **values)


def run(step: Step, **facts: Any) -> None:
    """Do a step, which leaves a file."""
    assert not step.is_finished()
    with step:
        step.facts |= facts
        leave_file(step)


def leave_file(step: Step) -> None:
    if step.main:
        (step.folder / "rows").mkdir(exist_ok=True)
        (step.folder / "rows" / "0.parquet").touch()


def interrupt(step: Step) -> None:
    """Begin a step and break it off after its first file."""
    with pytest.raises(KeyboardInterrupt), step:  # noqa: PT012
        step.facts["rows"] = 3
        leave_file(step)
        raise KeyboardInterrupt


def test_finished_step_is_remembered(tmp_path: Path) -> None:
    """Forgotten, hours of distillation would be done again; without its facts the report would be empty."""
    assert not make_step(tmp_path / "absent").is_finished()
    run(make_step(tmp_path), rows=12)
    again = make_step(tmp_path, settings=dict(reversed(SETTINGS.items())))  # the command line gives keys in any order
    assert again.is_finished()
    assert again.facts == {"rows": 12}
    assert finished_step(tmp_path, "run it")["facts"] == {"rows": 12}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"settings": SETTINGS | {"learning_rate": 3e-5}}, "learning_rate: then 2e-05, now 3e-05"),
        ({"settings": SETTINGS | {"corpus": ["sample", "wmt16"]}}, "corpus: then ['sample'], now ['sample', 'wmt16']"),
        ({"settings": SETTINGS | {"max_samples": 5}}, "max_samples: then None, now 5"),
        ({"inputs": {"target": "tiny@2"}}, "target: then tiny@1, now tiny@2"),
        ({"inputs": INPUTS | {"distill": "abc"}}, "distill: then None, now abc"),
        ({"recipe": "pretrain"}, "step: then distill, now pretrain"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_another_step_in_its_place_is_refused_by_name(tmp_path: Path, given: dict, said: str, finished: bool) -> None:
    """A folder of mixed settings, targets or recipes would be published as something that it is not."""
    (run if finished else interrupt)(make_step(tmp_path))
    with pytest.raises(InputError, match=rf"^{tmp_path} .*{re.escape(said)}.*another folder"):
        make_step(tmp_path, **given).is_finished()


def test_step_that_left_nothing_may_be_done_otherwise(tmp_path: Path) -> None:
    """Whoever mends the setting that made a step fail at once must not have to delete a folder first."""
    step = make_step(tmp_path, {"learning_rate": 9.0})
    with step:
        pass
    assert not make_step(tmp_path).is_finished()
    run(make_step(tmp_path))
    assert read_step(tmp_path)["settings"]["learning_rate"] == 2e-5


def test_settings_that_decide_nothing_are_left_aside(tmp_path: Path) -> None:
    """Publishing elsewhere, logging more often or a renamed target must not throw a trained drafter away."""
    settings = {"folder": Path("a/b"), "temperatures": (0.0, 0.7), "eval_strategy": None}
    run(make_step(tmp_path, settings | {"batch_size": 8}))
    record = tmp_path / FILE_NAME
    said = json.loads(record.read_text(encoding="utf-8"))
    said["settings"]["concurrency"], said["fingerprint"] = 4, "of an earlier release"
    record.write_text(json.dumps(said), encoding="utf-8")
    others = dict.fromkeys(("to", "output_dir", "logging_steps", "report_to", "private", "target_name"), "other")
    again = make_step(tmp_path, settings | others, inputs={"target": "renamed@1"})
    assert again.is_finished()
    assert again.fingerprint == "of an earlier release"  # by which later steps know it


def test_interrupted_step_is_not_finished(tmp_path: Path) -> None:
    """Taken for finished, half a distillation would be trained on; a process that is killed runs no more code."""
    with make_step(tmp_path / "running"):
        assert read_step(tmp_path / "running")["finished"] is False
    interrupt(make_step(tmp_path))
    again = make_step(tmp_path)
    assert not again.is_finished()
    assert again.facts == {}
    with pytest.raises(InputError, match="was interrupted: run it again"):
        finished_step(tmp_path, "run it again")
    run(again, rows=12)
    assert make_step(tmp_path).is_finished()


@pytest.mark.parametrize("content", [b"", b'{"recipe": "distill", ', b"\xff\xfe{}"])
def test_damaged_record_is_named(tmp_path: Path, content: bytes) -> None:
    """A record that cannot be read must not count as no step, whose results would then be overwritten."""
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(InputError, match=rf"{FILE_NAME} is damaged .*delete {tmp_path}"):
        make_step(tmp_path).is_finished()
    with pytest.raises(InputError, match="is damaged"):
        finished_step(tmp_path, "run it")


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    """Several processes writing one file would tear it; each must still see that the step is done."""
    other = make_step(tmp_path / "run", main=False)
    run(other, rows=1)
    assert not (tmp_path / "run").exists()
    run(make_step(tmp_path / "run"), rows=2)
    before = (tmp_path / "run" / FILE_NAME).read_bytes()
    seeing = make_step(tmp_path / "run", main=False)
    assert seeing.is_finished()
    with seeing:
        pass
    assert (tmp_path / "run" / FILE_NAME).read_bytes() == before


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
