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
    """Results of both measurements at tiny shapes."""
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


def test_costs_are_those_of_the_forecast(measured: dict[str, dict]) -> None:
    """A forecast from other times than the ones that are shown cannot be checked by a reader."""
    costs = measured["costs"]["ratios"]
    tokens = sum(0.5**place for place in range(gpu.DRAFT_LENGTH + 1))
    took = costs[f"pass over {gpu.DRAFT_LENGTH + 1} tokens, ms"] + gpu.DRAFT_LENGTH * costs["drafter's step, ms"]
    (forecast,) = (entry["forecast at 5"] for entry in measured["costs"]["figures"] if entry["α"] == 0.5)
    assert forecast == pytest.approx(tokens * costs["plain decoding, ms a token"] / took)
    assert "drafter's step without its graph, ms" not in costs  # there is no graph on a processor


def test_training_counts_what_is_read(measured: dict[str, dict]) -> None:
    """Prompts that are counted whole where a window is read would make training look four times as fast."""
    gemma, vicuna = measured["training"]["figures"]
    assert gemma["tokens read/s"] / gemma["supervised tokens/s"] == pytest.approx((1 + 64 + 22) / 22)
    assert vicuna["tokens read/s"] / vicuna["supervised tokens/s"] == pytest.approx((60 + 200) / 200)


def test_successors_are_certain() -> None:
    """A target that rounding sways would reject drafts that the script calls right."""
    model = gpu.random_model(gpu.vicuna_config(tiny=True), torch.device("cpu"), torch.bfloat16)
    successors = gpu.follow_successors(model)
    text = [7]
    for _ in range(40):
        text.append(successors[text[-1]])
    with torch.inference_mode():
        logits = model(torch.tensor([text])).logits[0].float()
    assert logits[:-1].argmax(-1).tolist() == text[1:]
    first, second = logits.topk(2).values.T
    assert (first - second).min() > 0.1 * first.max()


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


def test_named_parts_and_options_reach_the_commands(tmp_path: Path) -> None:
    """An option that is dropped in silence measures something else."""
    given = ("--device", "cpu", "--tiny", "--out", str(tmp_path / "out"), "training")
    done, called = run_script(tmp_path, *given)
    assert done.returncode == 0, done.stderr
    assert called == f"-m benchmarks.gpu training --device cpu --tiny --out {tmp_path}/out\n"
    done, _ = run_script(tmp_path, "--fast")
    assert done.returncode == 2
    assert "error: unknown argument --fast: give --wheels" in done.stderr


def test_wheels_for_the_gpu_leave_out_torch(tmp_path: Path) -> None:
    """The processor's torch among the wheels would take the place of the GPU's."""
    left_out = SCRIPT.read_text(encoding="utf-8")
    constraints = [line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    assert "torch" in constraints
    names = {name for part in left_out.split("LEFT_OUT")[1:3] for name in part.split("'")[1].strip("^()|=").split("|")}
    assert {"torch", "ruff", "matplotlib"} <= names
    assert names <= set(constraints)
    assert not names & {"transformers", "datasets", "pytest", "safetensors", "tokenizers", "gguf", "jsonschema"}
