"""The acceptance of held-out rows, against a slow computation row by row."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from drafter_trainer.errors import InputError
from drafter_trainer.training.collators import SelfDistilledCollator
from drafter_trainer.training.trainers import DrafterTrainer
from tests.training.conftest import finetuning_arguments, make_draft_model, make_rows


def evaluate(
    folder: Path, model: PreTrainedModel, rows: list[dict[str, Any]], batch_size: int, max_length: int = 64
) -> dict[str, float]:
    arguments = finetuning_arguments(folder, per_device_eval_batch_size=batch_size)
    metrics = DrafterTrainer(model, arguments, SelfDistilledCollator(0, max_length)).evaluate(rows)
    return {name: metrics[f"eval_{name}"] for name in ("greedy_agreement", "expected_alpha", "supervised_tokens")}


def evaluate_slowly(model: PreTrainedModel, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Compute the definitions, one token of one row at a time: no batch, no padding, no mask."""
    agreements, alphas = [], []
    for row in rows:
        ids = [*row["prompt_ids"], *row["response_ids"]]
        with torch.inference_mode():
            q = model(input_ids=torch.tensor([ids])).logits[0].softmax(dim=-1).numpy()
        for number, (topk_ids, logprobs) in enumerate(zip(row["topk_ids"], row["topk_logprobs"])):
            before = len(row["prompt_ids"]) + number - 1
            agreements.append(q[before].argmax() == topk_ids[0])
            alphas.append(sum(min(q[before][token], np.exp(logprob)) for token, logprob in zip(topk_ids, logprobs)))
    return {
        "greedy_agreement": float(np.mean(agreements)),
        "expected_alpha": float(np.mean(alphas)),
        "supervised_tokens": len(alphas),
    }


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_figures_equal_those_computed_row_by_row(tmp_path: Path, batch_size: int) -> None:
    """Prevent long rows, or those of a last batch that is not full, from counting more or less than others."""
    model, rows = make_draft_model(), make_rows(11)
    # Some of the drafter's own choices, so that agreement is neither 0 nor 1.
    for row in rows[::2]:
        ids = torch.tensor([[*row["prompt_ids"], *row["response_ids"]]])
        with torch.inference_mode():
            chosen = model(input_ids=ids).logits[0, len(row["prompt_ids"]) - 1 : -1].argmax(dim=-1)
        row["topk_ids"] = [[first, *others[1:]] for first, others in zip(chosen.tolist(), row["topk_ids"])]
    expected = evaluate_slowly(model, rows)
    assert 0.2 < expected["greedy_agreement"] < 0.8
    assert evaluate(tmp_path, model, rows, batch_size) == pytest.approx(expected, abs=1e-5)


def test_truncated_completions_are_not_counted(tmp_path: Path) -> None:
    """Prevent padding, or rows without a supervised token, from entering the mean."""
    model, rows = make_draft_model(), make_rows(8)
    cut = []
    for row in rows:
        kept = max(0, 20 - len(row["prompt_ids"]))
        cut.append(row | {name: row[name][:kept] for name in ("response_ids", "topk_ids", "topk_logprobs")})
    assert any(not row["response_ids"] for row in cut)
    found = evaluate(tmp_path, model, rows, 3, max_length=20)
    assert found == pytest.approx(evaluate_slowly(model, cut), abs=1e-5)


def test_rows_without_a_supervised_token_are_rejected(tmp_path: Path) -> None:
    """Prevent a division by zero if a short max_length cuts off every completion."""
    rows = [row for row in make_rows(12) if len(row["prompt_ids"]) >= 4]
    with pytest.raises(InputError, match="no supervised token, since their prompts fill max_length"):
        evaluate(tmp_path, make_draft_model(), rows, 4, max_length=4)
