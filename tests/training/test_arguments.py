"""The trainers' arguments: the paper's defaults, and values that are rejected."""

from pathlib import Path

import pytest

from drafter_trainer.errors import InputError
from drafter_trainer.training.arguments import DrafterTrainingArguments, PretrainingArguments

BOTH = PretrainingArguments, DrafterTrainingArguments
LOSSES = "cross_entropy, topk_kl, topk_tv, lk_hybrid"
PUBLISHING = r"is not supported: call the trainer's push_to_hub\(repo_id\).*HF_TOKEN"
TOKENS = {"max_length": 64, "per_device_train_tokens": 64}
REJECTED = [
    # A token would be pickled in clear into training_args.bin and uploaded with it.
    *((kind, {"push_to_hub": True}, f"push_to_hub {PUBLISHING}") for kind in BOTH),
    *((kind, {"hub_token": "hf_secret"}, f"hub_token {PUBLISHING}") for kind in BOTH),
    *((kind, {"max_length": n}, f"max_length must be at least 2, got {n}") for kind in BOTH for n in (1, 0, -5)),
    (DrafterTrainingArguments, {"loss_type": "kl"}, f"loss_type must be one of {LOSSES}, got kl"),
    (DrafterTrainingArguments, TOKENS | {"per_device_train_tokens": 63}, "at least max_length \\(64\\), got 63"),
    (DrafterTrainingArguments, TOKENS | {"train_sampling_strategy": "group_by_length"}, "leave train_sampling_strat"),
]


@pytest.mark.parametrize(("kind", "given", "message"), REJECTED)
def test_bad_values_are_rejected(tmp_path: Path, kind: type, given: dict, message: str) -> None:
    """Prevent a run that publishes a token, whose rows predict nothing, or that ends after everything was loaded."""
    with pytest.raises(InputError, match=message) as error:
        kind(output_dir=str(tmp_path), use_cpu=True, **given)
    assert "secret" not in str(error.value)


def test_what_is_meant_is_taken(tmp_path: Path) -> None:
    """Prevent a batch of several groups, which takes several times the memory."""
    given = {"output_dir": str(tmp_path), "use_cpu": True, "per_device_train_batch_size": 8}
    assert DrafterTrainingArguments(**given, **TOKENS).per_device_train_batch_size == 1
    assert all(kind(**given, max_length=2).max_length == 2 for kind in BOTH)


@pytest.mark.parametrize(
    ("kind", "rate", "metric", "greater"),
    [(PretrainingArguments, 3e-5, "loss", False), (DrafterTrainingArguments, 2e-5, "expected_alpha", True)],
)
def test_defaults_are_the_papers(tmp_path: Path, kind: type, rate: float, metric: str, greater: bool) -> None:
    """Prevent the library's defaults, keeping the worst checkpoint, and asking for a tracker's account."""
    arguments = kind(output_dir=str(tmp_path), use_cpu=True)
    assert (arguments.learning_rate, arguments.lr_scheduler_type, arguments.report_to) == (rate, "cosine", [])
    assert arguments.load_best_model_at_end
    assert (arguments.metric_for_best_model, arguments.greater_is_better) == (metric, greater)
