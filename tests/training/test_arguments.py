"""The trainers' arguments: the paper's defaults, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from drafter_trainer.errors import InputError
from drafter_trainer.training.arguments import DrafterTrainingArguments, PretrainingArguments

BOTH = pytest.mark.parametrize("kind", [PretrainingArguments, DrafterTrainingArguments])


@BOTH
@pytest.mark.parametrize(
    "given", [{"push_to_hub": True}, {"hub_token": "hf_secret"}], ids=lambda given: next(iter(given))
)
def test_the_trainers_own_publishing_is_refused(tmp_path: Path, kind: type, given: dict[str, Any]) -> None:
    """Prevent a token from being pickled in clear into training_args.bin and uploaded with it."""
    (name,) = given
    with pytest.raises(
        InputError, match=rf"{name} is not used: call push_to_hub\(repo_id\) of the trainer.*HF_TOKEN"
    ) as error:
        kind(output_dir=str(tmp_path), use_cpu=True, **given)
    assert "secret" not in str(error.value)


@BOTH
@pytest.mark.parametrize("max_length", [1, 0, -5])
def test_a_length_without_a_prediction_is_refused(tmp_path: Path, kind: type, max_length: int) -> None:
    """Prevent rows so short that nothing in them is predicted."""
    with pytest.raises(InputError, match=f"max_length must be at least 2, got {max_length}"):
        kind(output_dir=str(tmp_path), use_cpu=True, max_length=max_length)
    assert kind(output_dir=str(tmp_path), use_cpu=True, max_length=2).max_length == 2


def test_an_unknown_loss_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    """Prevent a name that is found out after rows were loaded and a drafter was made."""
    known = "cross_entropy, topk_kl, topk_tv, topk_acceptance, lk_hybrid, topk_rejected"
    with pytest.raises(InputError, match=f"loss_type must be one of {known}, got kl"):
        DrafterTrainingArguments(output_dir=str(tmp_path), use_cpu=True, loss_type="kl")
    for name in known.split(", "):
        assert DrafterTrainingArguments(output_dir=str(tmp_path), use_cpu=True, loss_type=name).loss_type == name


def test_a_token_budget_takes_the_place_of_rows(tmp_path: Path) -> None:
    """Prevent a batch of several groups, which would take several times the memory that was asked for."""
    given = {"output_dir": str(tmp_path), "use_cpu": True, "max_length": 64}
    arguments = DrafterTrainingArguments(**given, per_device_train_tokens=256, per_device_train_batch_size=8)
    assert arguments.per_device_train_batch_size == 1
    with pytest.raises(InputError, match="per_device_train_tokens 63 must hold a row of max_length 64"):
        DrafterTrainingArguments(**given, per_device_train_tokens=63)
    with pytest.raises(InputError, match="leave train_sampling_strategy out"):
        DrafterTrainingArguments(**given, per_device_train_tokens=64, train_sampling_strategy="group_by_length")


@pytest.mark.parametrize(("kind", "rate"), [(PretrainingArguments, 3e-5), (DrafterTrainingArguments, 2e-5)])
def test_defaults_are_the_papers(tmp_path: Path, kind: type, rate: float) -> None:
    """Prevent an untold run from using the library's defaults (linear, no warm-up, 5e-5) instead of the paper's."""
    arguments = kind(output_dir=str(tmp_path), use_cpu=True)
    assert arguments.learning_rate == rate
    assert arguments.lr_scheduler_type == "cosine"
    assert arguments.get_warmup_steps(1000) == 30
    assert arguments.per_device_train_batch_size == 2
    assert arguments.max_length == 2048
    assert arguments.optim.startswith("adamw")
    assert arguments.num_train_epochs == 3


@pytest.mark.parametrize(
    ("kind", "metric", "greater"),
    [(PretrainingArguments, "loss", False), (DrafterTrainingArguments, "expected_alpha", True)],
)
def test_the_best_checkpoint_is_kept_by_the_right_metric(
    tmp_path: Path, kind: type, metric: str, greater: bool
) -> None:
    """Prevent the worst checkpoint from being kept, with a metric whose direction is mistaken."""
    arguments = kind(output_dir=str(tmp_path), use_cpu=True)
    assert arguments.load_best_model_at_end
    assert arguments.metric_for_best_model == metric
    assert arguments.greater_is_better is greater
    assert arguments.eval_strategy == arguments.save_strategy == "epoch"


@BOTH
def test_nothing_is_reported_to_a_service_unless_told(tmp_path: Path, kind: type) -> None:
    """Prevent a run from asking for an account because some tracker is installed."""
    assert kind(output_dir=str(tmp_path), use_cpu=True).report_to == []
