"""Distillation and training killed at random moments: afterwards everything is as if nothing had happened."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from drafter_trainer.distillation import distill
from drafter_trainer.distillation.engines import TransformersEngine
from drafter_trainer.distillation.store import RowStore
from drafter_trainer.targets import Target
from drafter_trainer.training.base import train_to_end
from drafter_trainer.training.trainers import DrafterTrainer
from tests.conftest import make_model, make_tokenizer
from tests.distillation.conftest import PAIR, make_requests, sample_prompts, stored_rows
from tests.processes import kill_often
from tests.training.conftest import COLLATOR, finetuning_arguments, make_draft_model, make_rows

KILLS = pytest.mark.parametrize("kills", [5, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])


def run_distillation(folder: Path) -> None:
    """Distil."""
    torch.set_num_threads(1)
    tokenizer = make_tokenizer()
    target = Target("tests/tiny-target", "abc", "nowhere")
    requests = make_requests(sample_prompts(tokenizer, 16), [0.0, 0.7, 1.0], 2, 0, 16, PAIR, target)
    engine = TransformersEngine(make_model(tokenizer), tokenizer.pad_token_id)
    distill(requests, engine, RowStore(folder), 4, "English", [0, 1, 2])


def run_training(folder: Path) -> None:
    """Train, and leave the whole log at the end."""
    torch.set_num_threads(1)
    steps = {"max_steps": 40, "save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 3}
    trainer = DrafterTrainer(
        model=make_draft_model(),
        args=finetuning_arguments(
            folder, loss_type="lk_hybrid", load_best_model_at_end=True, learning_rate=1e-2, **steps
        ),
        train_dataset=make_rows(40),
        eval_dataset=make_rows(7, seed=1),
        data_collator=COLLATOR,
    )
    train_to_end(trainer)
    curve = [
        {name: entry[name] for name in ("step", "loss", "eval_loss", "eval_expected_alpha") if name in entry}
        for entry in trainer.state.log_history
    ]
    (folder / "curve.json").write_text(json.dumps(curve), encoding="utf-8")


@KILLS
def test_a_distillation_that_is_killed_again_and_again_loses_nothing(tmp_path: Path, kills: int) -> None:
    """Prevent rows from being lost, repeated or answered otherwise, wherever a kill hits."""
    assert kill_often(run_distillation, tmp_path / "killed", kills) >= 2
    rows, whole = (stored_rows(RowStore(tmp_path / name)) for name in ("killed", "whole"))
    assert [row["key"] for row in rows] == [row["key"] for row in whole]
    # Other requests stand beside a row after a kill: log-probabilities are rounded otherwise, and seldom so is a draw.
    pairs = [*zip(rows, whole)]
    assert sum(row["response_ids"] == other["response_ids"] for row, other in pairs) >= 0.98 * len(rows)
    for row, other in pairs:
        drawn = {"response_ids", "finish_reason", "topk_ids", "topk_logprobs"}
        assert {name: row[name] for name in row.keys() - drawn} == {name: other[name] for name in row.keys() - drawn}
        if row["response_ids"] == other["response_ids"]:
            assert row["finish_reason"] == other["finish_reason"]
            np.testing.assert_allclose(row["topk_logprobs"], other["topk_logprobs"], rtol=2e-3, atol=1e-3)


def without_repeats(curve: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out the evaluations that a resumed run adds behind its last step."""
    return [entry for number, entry in enumerate(curve) if entry not in curve[:number]]


@KILLS
def test_a_training_that_is_killed_again_and_again_gives_the_same_curve(tmp_path: Path, kills: int) -> None:
    """Prevent a loss curve with a seam: a step that is repeated, left out, or taken with other rows."""
    assert kill_often(run_training, tmp_path / "killed", kills) >= 2
    curve, whole = (
        without_repeats(json.loads((tmp_path / name / "curve.json").read_text(encoding="utf-8")))
        for name in ("killed", "whole")
    )
    assert [entry["step"] for entry in curve if "loss" in entry] == list(range(1, 41))
    assert curve == [pytest.approx(entry, abs=1e-6) for entry in whole]
    weights, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("killed", "whole"))
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, atol=1e-6, rtol=0)
