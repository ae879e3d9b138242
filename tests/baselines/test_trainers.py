"""Training baselines: the loss, and resuming after an interruption."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from benchmarks.baselines.eagle import EagleLayer
from benchmarks.baselines.medusa import MedusaHeads
from benchmarks.baselines.trainers import BaselineTrainer, BaselineTrainingArguments, EagleTrainer, MedusaTrainer
from drafter_trainer.training.base import train_to_end
from tests.baselines.conftest import noisy
from tests.training.conftest import COLLATOR, QUIET, VOCABULARY, make_draft_model, make_rows
from tests.training.test_trainers import Stop, StoppedError

WIDTH = 16
DRAFT_IDS = torch.arange(3, VOCABULARY)


def make_trainer(kind: str, folder: Path, rows: list[dict[str, Any]], **given: Any) -> BaselineTrainer:
    callbacks, target_model = given.pop("callbacks", None), make_draft_model(seed=3)
    torch.manual_seed(0)
    model = noisy(MedusaHeads(2, WIDTH), 0.1) if kind == "medusa" else EagleLayer(target_model.config)
    return (MedusaTrainer if kind == "medusa" else EagleTrainer)(
        model=model,
        args=BaselineTrainingArguments(output_dir=str(folder), **QUIET | given),
        target_model=target_model,
        draft_ids=DRAFT_IDS,
        train_dataset=rows,
        eval_dataset=make_rows(6, seed=1),
        data_collator=COLLATOR,
        callbacks=callbacks,
    )


@torch.inference_mode()
def loss_by_hand(kind: str, trainer: BaselineTrainer, rows: list[dict[str, Any]]) -> float:
    """Compute the sum of the losses from the definitions, row by row, without batch, padding or mask."""
    target_model, total = trainer.target_model, 0.0
    head = target_model.lm_head.weight[DRAFT_IDS]
    for row in rows:
        ids = [*row["prompt_ids"], *row["response_ids"]]
        hidden = target_model.model(torch.tensor([ids])).last_hidden_state[0]
        first = len(row["prompt_ids"])
        for position in range(first - 1, len(ids)):
            if kind == "medusa":
                for number, layer in enumerate(trainer.model.layers, 1):
                    place = position + 1 + number
                    if place < len(ids) and ids[place] >= 3:
                        state = hidden[position] + F.silu(layer(hidden[position]))
                        total -= 0.8**number * (head @ state).log_softmax(-1)[ids[place] - 3].item()
            elif position + 2 < len(ids):
                embeddings = target_model.model.embed_tokens(torch.tensor(ids[1 : position + 2]))
                state = trainer.model(embeddings[None], hidden[None, : position + 1])[0, -1]
                goal = hidden[position + 1]
                total += F.smooth_l1_loss(state, goal).item()
                total -= 0.1 * ((head @ goal).softmax(-1) @ (head @ state).log_softmax(-1)).item()
    return total


@pytest.mark.parametrize("templates", [0, 1, 2], ids=["nothing-shared", "one-beginning", "two-beginnings"])
@pytest.mark.parametrize("kind", ["medusa", "eagle"])
def test_loss_equals_the_one_computed_by_hand(tmp_path: Path, kind: str, templates: int) -> None:
    """Prevent a wrong shift, a loss on prompts, and errors of a shared prefix."""
    rows = make_rows(10)
    for number, row in enumerate(rows):
        row["response_ids"] = row["response_ids"][:20]
        if templates:
            row["prompt_ids"] = [3 + number % templates, *range(5, 15), *row["prompt_ids"]]
    trainer = make_trainer(kind, tmp_path, rows)
    trainer.model.eval()  # without noise
    # A prefix is computed for the first batch, cached for the second, and shorter in the last.
    shorter = [row | {"prompt_ids": [*row["prompt_ids"][:9], 3]} for row in rows[5:]]
    for batch in (rows[:3], rows[3:5], rows[:5], shorter):
        expected, tokens = loss_by_hand(kind, trainer, batch), sum(len(row["response_ids"]) for row in batch)
        loss = trainer.compute_loss(trainer.model, COLLATOR(batch))
        assert loss.item() == pytest.approx(expected / tokens, rel=1e-4)
    loss = trainer.compute_loss(trainer.model, COLLATOR(batch), num_items_in_batch=torch.tensor(1000))
    assert loss.item() == pytest.approx(expected / 1000, rel=1e-4)


def test_interrupted_training_resumes(tmp_path: Path) -> None:
    """A training that starts again takes its whole time twice."""
    given = {"save_strategy": "epoch", "num_train_epochs": 3, "per_device_train_batch_size": 4}
    whole = make_trainer("medusa", tmp_path / "whole", make_rows(12), **given)
    train_to_end(whole)
    stopped = make_trainer("medusa", tmp_path / "stopped", make_rows(12), callbacks=[Stop(4)], **given)
    with pytest.raises(StoppedError):  # within the second epoch
        train_to_end(stopped)
    again = make_trainer("medusa", tmp_path / "stopped", make_rows(12), **given)
    train_to_end(again)
    for name, weight in whole.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], weight)
