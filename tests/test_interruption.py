"""Distillation killed at random moments: afterwards everything is as if nothing had happened."""

from pathlib import Path

import numpy as np
import pytest
import torch

from drafter_trainer.distillation import distill
from drafter_trainer.distillation.engines import TransformersEngine
from drafter_trainer.distillation.store import RowStore
from drafter_trainer.targets import Target
from tests.conftest import make_model, make_tokenizer
from tests.distillation.conftest import PAIR, make_requests, sample_prompts, stored_rows
from tests.processes import kill_often

KILLS = pytest.mark.parametrize("kills", [5, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])


def run_distillation(folder: Path) -> None:
    torch.set_num_threads(1)
    tokenizer = make_tokenizer()
    target = Target("tests/tiny-target", "abc", "nowhere")
    requests = make_requests(sample_prompts(tokenizer, 16), [0.0, 0.7, 1.0], 2, 0, 16, PAIR, target)
    engine = TransformersEngine(make_model(tokenizer), tokenizer.pad_token_id)
    distill(requests, engine, RowStore(folder), 4, "English", [0, 1, 2])


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
