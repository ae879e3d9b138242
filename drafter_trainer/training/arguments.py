"""Arguments of the trainers; everything else is `transformers.TrainingArguments`."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from transformers import TrainingArguments

from drafter_trainer.errors import InputError
from drafter_trainer.training.losses import TOPK_LOSSES, cross_entropy

_LOSS_TYPES = (cross_entropy.__name__, *TOPK_LOSSES)


def _field(default: Any, help_text: str) -> Any:
    return field(default=default, metadata={"help": help_text})


@dataclass
class _TrainerArguments(TrainingArguments):
    """Arguments and checks that both trainers share."""

    _argument_group_name: ClassVar[str] = "training"  # of the command line

    max_length: int = _field(2048, "Maximum number of tokens of a row; longer rows are truncated")
    lr_scheduler_type: str = _field("cosine", "Learning-rate schedule")
    warmup_steps: float = _field(0.03, "Warm-up steps; below 1, their share of all steps")
    eval_strategy: str = _field("epoch", "When to evaluate: no, steps or epoch")
    save_strategy: str = _field("epoch", "When to save: no, steps, epoch or best")
    include_num_input_tokens_seen: str = _field("non_padding", "Log the number of input tokens")
    save_total_limit: int | None = _field(2, "Maximum number of checkpoints kept")
    load_best_model_at_end: bool = _field(True, "Keep the best checkpoint, not the last one")
    metric_for_best_model: str | None = _field("loss", "Metric of the best model")
    remove_unused_columns: bool = _field(False, "Must be false: the loss reads columns that the model does not")
    prediction_loss_only: bool = _field(True, "Must be true: logits are too large to gather")

    def __post_init__(self) -> None:
        super().__post_init__()
        # The Trainer would save the token unencrypted in training_args.bin, and upload that file with the weights.
        for name in ("push_to_hub", "hub_token"):
            if getattr(self, name):
                raise InputError(
                    f"{name} is not supported: call the trainer's push_to_hub(repo_id), with the token in HF_TOKEN"
                )
        # Without an accelerator, pinned memory is useless, and torch warns about it at every evaluation.
        self.dataloader_pin_memory &= torch.accelerator.is_available()
        if self.max_length < 2:
            raise InputError(f"max_length must be at least 2, got {self.max_length}")
        for name in ("draft_vocabulary", "prompt_window", "lora_rank"):
            if getattr(self, name, 0) < 0:
                raise InputError(f"{name} must be 0 or more, got {getattr(self, name)}")


@dataclass
class PretrainingArguments(_TrainerArguments):
    """Arguments of `PretrainingTrainer`: `TrainingArguments` with the paper's defaults, and `max_length`.

    Args:
        max_length (`int`): Number of tokens of a packed row.
        dataloader_num_workers (`int`): Number of processes that tokenize, pack and load rows; 0 for this process only.
    """

    output_dir: str | None = _field("", "Folder of checkpoints and drafter (default: RUN_FOLDER/pretrain)")
    max_length: int = _field(2048, "Number of tokens of a packed row")
    per_device_train_batch_size: int = _field(2, "Number of rows in a device's batch")
    learning_rate: float = _field(3e-5, "Peak learning rate")
    include_num_input_tokens_seen: str = _field("all", "Log the number of input tokens")


@dataclass
class DrafterTrainingArguments(_TrainerArguments):
    """Arguments of `DrafterTrainer`: `TrainingArguments` with the paper's defaults, and further fields.

    Args:
        max_length (`int`): Maximum number of tokens of a row; longer completions are truncated.
        loss_type (`str`): "cross_entropy" on the completions, or a loss on the target's top-k log-probabilities:
            "topk_kl", "topk_tv" or "lk_hybrid" (see `training.losses`).
        per_device_train_tokens (`int`): Maximum number of tokens of a batch, padding included; rows of similar lengths
            are batched together. 0 for batches of `per_device_train_batch_size` rows.
        draft_vocabulary (`int`): Size of the draft vocabulary, which has the most frequent ids of the completions;
            0 for the draft vocabulary that the drafter was created with.
        prompt_window (`int`): Number of tokens at the end of the prompt that the network reads in addition to the
            first token, in training and in drafting; 0 for the whole prompt. It is published with the drafter.
        kv_sharing_layers (`list[int]`): One layer of the target for each layer of the drafter, usually the layer from
            which it was initialized. For verified tokens, the drafter's layer attends to the keys and values of this
            layer. Defaults to the value in the drafter's configuration. In training, the target reads most batches
            too, with whole prompts, which must fit into `max_length` and the sliding window. The remaining batches
            train the same weights to draft without the target's keys and values.
        lora_rank (`int`): Rank of a LoRA adapter that is trained over a frozen base drafter; 0 to train all weights.
    """

    output_dir: str | None = _field("", "Folder of checkpoints and drafter (default: RUN_FOLDER/finetune)")
    loss_type: str = _field("cross_entropy", f"Loss: {', '.join(_LOSS_TYPES)}")
    per_device_train_tokens: int = _field(0, "Maximum tokens in a device's batch of similar rows; 0: limit the rows")
    draft_vocabulary: int = _field(0, "Size of the draft vocabulary (the most frequent ids); 0: the drafter's own")
    prompt_window: int = _field(
        0, "Tokens at the end of the prompt that the network reads, in addition to the first token; 0: all"
    )
    kv_sharing_layers: list[int] = field(
        default_factory=list,
        metadata={"help": "For each layer of the drafter, the target's layer whose keys and values it attends to"},
    )
    lora_rank: int = _field(0, "Rank of a LoRA adapter trained over a base drafter; 0: train all weights")
    per_device_train_batch_size: int = _field(2, "Number of rows in a device's batch")
    learning_rate: float = _field(2e-5, "Peak learning rate")
    metric_for_best_model: str | None = _field("expected_alpha", "Metric of the best model")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss_type not in _LOSS_TYPES:
            raise InputError(f"loss_type must be one of {', '.join(_LOSS_TYPES)}, got {self.loss_type}")
        if self.per_device_train_tokens:
            if self.per_device_train_tokens < self.max_length:
                raise InputError(
                    f"per_device_train_tokens must be at least max_length ({self.max_length}), got "
                    f"{self.per_device_train_tokens}"
                )
            if self.train_sampling_strategy == "group_by_length":
                raise InputError("per_device_train_tokens already groups by length: leave train_sampling_strategy out")
            self.per_device_train_batch_size = 1  # one group of rows
