"""The GPU script on a processor: tiny shapes go the whole way, and a part that fails does not hide the others."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks import gpu

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    out = tmp_path_factory.mktemp("gpu")
    gpu.main(["costs", "training", "--device", "cpu", "--tiny", "--out", str(out)])
    return {name: json.loads((out / f"gpu_{name}.json").read_text(encoding="utf-8")) for name in ("costs", "training")}


def test_scripted_acceptance_is_what_was_asked_for(measured: dict[str, dict]) -> None:
    """A script that loses its place in the text would time drafts that are all rejected, whatever α says."""
    figures = measured["costs"]["figures"]
    assert [entry["α"] for entry in figures] == list(gpu.ALPHAS)
    accepted = [entry["α of the drafts"] for entry in figures]
    assert accepted == sorted(accepted)
    assert accepted[0] < 0.6
    assert accepted[-1] > 0.75
    passes = [entry["tokens per pass"] for entry in figures]
    assert passes == sorted(passes)
    assert passes[-1] > 2.5
    assert all(entry["timed"] > 0 for entry in figures)


def test_without_cuda_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """A run on a processor by mistake would leave a GPU's results file with a processor's times."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main(["costs", "--out", str(tmp_path)])
    assert "there is no CUDA device: run this on a GPU" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def run_script(tmp_path: Path, *arguments: str, fails: str = "nothing") -> tuple[subprocess.CompletedProcess, str]:
    """Run the script with an interpreter that only notes its commands, and fails where one has a word."""
    python, called = tmp_path / "python", tmp_path / "called"
    python.write_text(f'#!/bin/sh\necho "$@" >> {called}\ncase "$*" in *{fails}*) exit 3;; esac\n', encoding="utf-8")
    python.chmod(0o755)
    done = subprocess.run(
        [SCRIPT, *arguments], env=os.environ | {"PYTHON": str(python)}, capture_output=True, text=True, check=False
    )
    return done, called.read_text(encoding="utf-8") if called.exists() else ""


def test_every_part_runs_though_one_fails(tmp_path: Path) -> None:
    """Minutes on a GPU are dear: a failed test must neither hide the measurements nor pass for success."""
    out = tmp_path / "out"
    done, called = run_script(tmp_path, "--out", str(out), fails="tests/gpu")
    assert done.returncode == 2
    assert f"error: failed: tests (logs in {out})" in done.stderr
    words = [line.split() for line in called.splitlines()]
    assert [line[:2] for line in words[:3]] == [["-m", "pytest"], ["-m", "benchmarks.gpu"], ["-m", "benchmarks.gpu"]]
    for word in (word for line in words for word in line if word.split("/")[0] in ("recipes", "hub_cards", "tests")):
        assert (ROOT / word).exists(), word
    assert {path.name for path in out.iterdir()} == {"tests.log", "costs.log", "training.log", "benchmark.log"}
