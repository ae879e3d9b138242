"""The trainers: what a token's loss is, how it is reduced, what is kept, and how a stopped run goes on."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback

from drafter_trainer.errors import InputError
from drafter_trainer.training.base import train_to_end
from drafter_trainer.training.collators import collate_packed
from drafter_trainer.training.losses import TOPK_LOSSES, cross_entropy
from drafter_trainer.training.trainers import DrafterTrainer, PretrainingTrainer
from tests.decoding.drafts import add_noise
from tests.processes import run_ranks
from tests.training.conftest import (
    COLLATOR,
    VOCABULARY,
    finetuning_arguments,
    make_draft_model,
    make_rows,
    pretraining_arguments,
)

# Without clipping and with plain gradient descent a wrong scale of the loss shows in the weights; Adam hides it.
PLAIN = {"optim": "sgd", "max_grad_norm": 0.0, "lr_scheduler_type": "constant", "learning_rate": 0.2}


def make_trainer(folder: Path, rows: list[dict[str, Any]], seed: int = 0, **given: Any) -> DrafterTrainer:
    callbacks, draft_ids = given.pop("callbacks", None), given.pop("draft_ids", None)
    eval_rows = given.pop("eval_rows", None) or make_rows(7, seed=1)
    return DrafterTrainer(
        model=make_draft_model(seed),
        draft_ids=draft_ids,
        args=finetuning_arguments(folder, **given),
        train_dataset=rows,
        eval_dataset=eval_rows,
        data_collator=COLLATOR,
        callbacks=callbacks,
    )


def losses_of(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def assert_same_weights(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], atol: float) -> None:
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(weight, two[name], atol=atol, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


def losses_by_hand(model: torch.nn.Module, rows: list[dict[str, Any]], loss_type: str) -> list[float]:
    """Compute the loss of every supervised token from the definitions, without batch, padding or shift."""
    losses = []
    for row in rows:
        ids = [*row["prompt_ids"], *row["response_ids"]]
        with torch.inference_mode():
            log_q = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(dim=-1).numpy()
        for number, token in enumerate(row["response_ids"]):
            before = log_q[len(row["prompt_ids"]) + number - 1]
            log_p, inside = np.array(row["topk_logprobs"][number]), before[row["topk_ids"][number]]
            rest_p, rest_q = 1 - np.exp(log_p).sum(), 1 - np.exp(inside).sum()
            kl = (np.exp(log_p) * (log_p - inside)).sum() + rest_p * np.log(rest_p / rest_q)
            alpha = np.minimum(np.exp(log_p), np.exp(inside)).sum()
            weight = np.exp(-3 * alpha)
            by_type = {
                "cross_entropy": -before[token],
                "topk_kl": kl,
                "topk_tv": 1 - alpha,
                "lk_hybrid": weight * kl + (1 - weight) * (1 - alpha),
            }
            losses.append(by_type[loss_type])
    return losses


@pytest.mark.parametrize("loss_type", ["cross_entropy", *TOPK_LOSSES])
def test_loss_of_a_batch_equals_the_one_computed_by_hand(tmp_path: Path, loss_type: str) -> None:
    """Prevent a shift too many or too few, a supervised or counted prompt or padding, a loss under another's name."""
    rows = make_rows(5)
    trainer = make_trainer(tmp_path, rows, loss_type=loss_type)
    expected = losses_by_hand(trainer.model, rows, loss_type)
    batch = COLLATOR(rows)
    loss = trainer.compute_loss(trainer.model, batch)
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-4)
    unsupervised = batch["labels"] == -100
    batch["topk_ids"][unsupervised], batch["topk_logprobs"][unsupervised] = 7, -3.0
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(1000))
    assert loss.item() == pytest.approx(np.sum(expected) / 1000, rel=1e-4)


@pytest.mark.parametrize("loss_type", ["cross_entropy", "topk_kl", "lk_hybrid"])
def test_loss_over_a_draft_vocabulary_equals_the_one_over_its_ids(tmp_path: Path, loss_type: str) -> None:
    """Prevent ids from being used as indices of the pruned head, which are other tokens."""
    rows, every = make_rows(5), torch.arange(VOCABULARY)
    batch, losses = COLLATOR(rows), []
    for draft_ids in (None, every):
        trainer = make_trainer(tmp_path, rows, draft_ids=draft_ids, loss_type=loss_type)
        losses.append(trainer.compute_loss(trainer.model, batch).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    # Without the first ids all indices shift; a label that is left out costs nothing.
    trainer = make_trainer(tmp_path, rows, draft_ids=every[3:], loss_type=loss_type)
    logits = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    supervised = batch["labels"][:, 1:] != -100
    logits = logits[:, :-1][supervised]
    labels, ids, logprobs = (batch[name][:, 1:][supervised] for name in ("labels", "topk_ids", "topk_logprobs"))
    labels, ids = (torch.where(tokens >= 3, tokens - 3, -1) for tokens in (labels, ids))
    if loss_type == "cross_entropy":
        by_hand = cross_entropy(logits, labels)
    else:
        by_hand = TOPK_LOSSES[loss_type](logits, ids, logprobs)
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(by_hand.mean().item(), rel=1e-5)


def test_a_draft_vocabulary_under_fsdp_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevent a training whose sharded head cannot be restored after its last step."""

    def initialise(trainer: Trainer, model: torch.nn.Module, args: Any, **_: Any) -> None:
        vars(trainer).update(model=model, args=args, train_dataset=None, is_fsdp_enabled=True)

    monkeypatch.setattr(Trainer, "__init__", initialise)
    with pytest.raises(InputError, match="cannot be trained with FSDP"):
        make_trainer(tmp_path, make_rows(2), draft_ids=torch.arange(4))


def test_pretraining_accumulates_alike(tmp_path: Path) -> None:
    """Prevent packed rows, all of whose tokens are labels, from being divided by one token too many a row."""
    packed = torch.randint(1, VOCABULARY, (8, 12), generator=torch.Generator().manual_seed(0))
    rows = Dataset.from_dict({"input_ids": packed.tolist()})
    runs = []
    for size, accumulation in ((8, 1), (1, 8)):
        given = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation} | PLAIN
        arguments = pretraining_arguments(tmp_path, **given)
        trainer = PretrainingTrainer(make_draft_model(), arguments, collate_packed, train_dataset=rows)
        with torch.inference_mode():
            expected = trainer.model(input_ids=packed, labels=packed).loss.item()
        trainer.train()
        assert losses_of(trainer)[0] == pytest.approx(expected, rel=1e-4)
        runs.append((losses_of(trainer), trainer.model.state_dict()))
    assert runs[1][0] == pytest.approx(runs[0][0], rel=1e-4)
    assert_same_weights(runs[1][1], runs[0][1], atol=1e-4)


def test_a_batch_without_a_supervised_token_is_harmless(tmp_path: Path) -> None:
    """Prevent a prompt that fills max_length from ending the training, or turning the loss or the weights into NaN."""
    rows = make_rows(4)
    rows[1] |= {"prompt_ids": [3] * 70}
    given = {"per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, "logging_nan_inf_filter": False}
    trainer = make_trainer(tmp_path, rows, num_train_epochs=1, eval_rows=rows, **given, **PLAIN)
    trainer.train()
    assert np.isfinite(losses_of(trainer)).all()
    assert min(losses_of(trainer)) == 0
    assert all(weight.isfinite().all() for weight in trainer.model.state_dict().values())
    assert np.isfinite(trainer.evaluate()["eval_loss"])


def test_a_loss_that_is_not_finite_is_named(tmp_path: Path) -> None:
    """Prevent a training from going on for hours, with a falling loss in its log, while its weights are NaN."""
    trainer = make_trainer(tmp_path, make_rows(8), learning_rate=1e30, optim="sgd", max_grad_norm=0.0)
    with pytest.raises(InputError, match=r"the loss is (nan|inf) after step [12]: train with a lower learning_rate"):
        trainer.train()


# The global batch is four rows, with one process as with two.
DISTRIBUTED = {"loss_type": "topk_kl", "num_train_epochs": 1, "per_device_eval_batch_size": 2} | PLAIN


def divisions(processes: int) -> dict[str, tuple[Any, dict[str, Any], dict[str, Any]]]:
    """Divide a global batch: rows, what each of several processes takes, what one process takes."""
    rows, tokens = make_rows(16), {"per_device_train_tokens": 104, "max_length": 64}
    share, whole = {"per_device_train_batch_size": 4 // processes}, {"per_device_train_batch_size": 4}
    single = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4 // processes}
    return {
        "side by side": (rows, share, whole),
        "accumulated": (rows, single, whole),
        "by tokens": (Dataset.from_list(rows), tokens, tokens | {"gradient_accumulation_steps": processes}),
    }


def trained(folder: Path, rows: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Train and evaluate; return the number of processes, losses, metrics and weights."""
    trainer = make_trainer(folder, rows, **given, **DISTRIBUTED)
    trainer.train()
    metrics = trainer.evaluate()
    # Seven rows do not fill the batches of two: in two processes one row is there twice.
    assert len(trainer.eval_dataset) == 7
    result = {"processes": trainer.args.world_size, "losses": losses_of(trainer)}
    weights = {name: weight.tolist() for name, weight in trainer.model.state_dict().items()}
    return result | {"metrics": {name: metrics[name] for name in METRICS}, "weights": weights}


def train_distributed(folder: Path) -> None:
    """Train as one of several processes, and let the first write what came of it."""
    torch.set_num_threads(1)
    processes = int(os.environ["WORLD_SIZE"])
    results = {name: trained(folder, rows, given) for name, (rows, given, _) in divisions(processes).items()}
    results["rows"] = [key for keys in gather_object([rows_trained_on(folder)]) for key in keys]
    if os.environ["RANK"] == "0":
        (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")


def rows_trained_on(folder: Path) -> list[str]:
    """Train for an epoch on rows that processes cannot share out evenly, and return those that this one had."""
    seen: list[str] = []

    def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        seen.extend(row["key"] for row in batch if row["response_ids"])
        return COLLATOR(batch)

    given = DISTRIBUTED | {"per_device_train_batch_size": 2, "dataloader_num_workers": 0}
    trainer = make_trainer(folder, Dataset.from_list(make_rows(UNEVEN)), **given)
    trainer.data_collator = collate
    trainer.train()
    return seen


UNEVEN = 9
METRICS = ("eval_greedy_agreement", "eval_expected_alpha", "eval_supervised_tokens")


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_train_and_evaluate_as_one(tmp_path: Path, processes: int) -> None:
    """Prevent several processes from training at a half or a double rate, and from evaluating padding rows twice."""
    run_ranks(train_distributed, processes, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))

    assert sorted(results["rows"]) == sorted(f"row{number}" for number in range(UNEVEN))
    for name, (rows, _, given) in divisions(processes).items():
        result, alone = results[name], trained(tmp_path, rows, given)
        assert (result["processes"], alone["processes"]) == (processes, 1)
        assert result["losses"] == pytest.approx(alone["losses"], rel=1e-4)
        assert result["metrics"] == pytest.approx(alone["metrics"], abs=1e-4)
        for name, weight in alone["weights"].items():
            np.testing.assert_allclose(result["weights"][name], weight, rtol=0, atol=1e-4)


def test_evaluation_has_loss_and_acceptance(tmp_path: Path) -> None:
    """Prevent a metric that may decide which checkpoint is kept from being missing or misnamed."""
    trainer = make_trainer(tmp_path, make_rows(4), per_device_eval_batch_size=7, loss_type="lk_hybrid")
    metrics = trainer.evaluate(metric_key_prefix="test")
    expected = losses_by_hand(trainer.model, trainer.eval_dataset, "lk_hybrid")
    assert metrics["test_loss"] == pytest.approx(np.mean(expected), rel=1e-4)
    assert metrics["test_supervised_tokens"] == len(expected)
    assert 0 <= metrics["test_greedy_agreement"] <= 1
    assert 0 < metrics["test_expected_alpha"] < 1


class Damage(TrainerCallback):
    """Spoil the weights after some steps, as far too high a learning rate would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, model: torch.nn.Module, **_: Any) -> None:
        if state.global_step > self.step:
            add_noise(model.parameters(), 1.0, state.global_step)


def test_the_checkpoint_with_the_best_expected_alpha_is_kept(tmp_path: Path) -> None:
    """Prevent the last checkpoint from being published where an earlier one is accepted more often."""
    given = RESUMED | {"max_steps": 10, "save_steps": 2, "eval_steps": 2, "callbacks": [Damage(step=6)]}
    trainer = make_trainer(tmp_path, make_rows(12, seed=1), **given)
    metrics = train_to_end(trainer)
    evaluated = [entry for entry in trainer.state.log_history[:-1] if "eval_expected_alpha" in entry]
    history = {entry["step"]: entry["eval_expected_alpha"] for entry in evaluated}
    best = max(history, key=history.__getitem__)
    assert best in (2, 4, 6)
    assert history[10] < 0.8 * history[best]
    assert metrics["eval_expected_alpha"] == pytest.approx(history[best], abs=1e-6)
    # Only the best and the last are kept on the disk, and the best is what was saved.
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {f"checkpoint-{best}", "checkpoint-10"}
    kept = load_file(tmp_path / "model.safetensors")
    assert_same_weights(kept, load_file(tmp_path / f"checkpoint-{best}" / "model.safetensors"), atol=0)
    assert metrics.keys() == {"eval_loss", *METRICS}
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["use_cache"] is True


class StoppedError(Exception):
    """A user's interrupt, which unlike a real one does not end the tests."""


class Stop(TrainerCallback):
    """Interrupt a run as a user would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise StoppedError


RESUMED = {"max_steps": 12, "save_steps": 3, "eval_steps": 3, "save_strategy": "steps", "eval_strategy": "steps"}
RESUMED |= {"load_best_model_at_end": True, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Weights and figures of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    trainer = make_trainer(folder, make_rows(10), **RESUMED)
    metrics = train_to_end(trainer)
    return load_file(folder / "model.safetensors"), metrics


def assert_equals_uninterrupted(
    folder: Path, metrics: dict[str, float], uninterrupted: tuple[dict[str, torch.Tensor], dict[str, float]]
) -> None:
    weights, expected = uninterrupted
    assert_same_weights(load_file(folder / "model.safetensors"), weights, atol=1e-6)
    for name in ("eval_loss", *METRICS):
        assert metrics[name] == pytest.approx(expected[name], abs=1e-6)


@pytest.mark.parametrize("step", [2, 5, 8])
def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path, step: int, uninterrupted: Any) -> None:
    """Prevent rows repeated or skipped, a lost optimizer, a new schedule, or a checkpoint cut off by a kill."""
    with pytest.raises(StoppedError):
        train_to_end(make_trainer(tmp_path, make_rows(10), callbacks=[Stop(step)], **RESUMED))
    assert len(list(tmp_path.glob("checkpoint-*"))) == min(2, (step - 1) // 3)
    if step == 8:
        (tmp_path / "checkpoint-9").mkdir()
        (tmp_path / "checkpoint-9" / "model.safetensors").write_bytes(b"half")
    # Only before the first checkpoint do the initial weights matter.
    resumed = make_trainer(tmp_path, make_rows(10), seed=0 if step == 2 else 5, **RESUMED)
    metrics = train_to_end(resumed)
    assert resumed.state.global_step == 12
    assert_equals_uninterrupted(tmp_path, metrics, uninterrupted)


def test_a_run_stopped_after_its_last_step_keeps_the_best(tmp_path: Path, uninterrupted: Any) -> None:
    """Prevent a run that was killed before it saved the drafter from never ending, or from saving the last one."""
    make_trainer(tmp_path, make_rows(10), **RESUMED).train()
    assert not (tmp_path / "model.safetensors").exists()
    # There is no step left to do: 12 comes after 9, though not in alphabetical order.
    resumed = make_trainer(tmp_path, make_rows(10), seed=5, callbacks=[Stop(step) for step in range(13)], **RESUMED)
    metrics = train_to_end(resumed)
    assert_equals_uninterrupted(tmp_path, metrics, uninterrupted)
