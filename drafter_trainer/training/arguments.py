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
    """Defaults that the trainers have in common, and their checks."""

    _argument_group_name: ClassVar[str] = "training"  # of the command line

    max_length: int = _field(2048, "Maximum number of tokens of a row; longer rows lose their end")
    lr_scheduler_type: str = _field("cosine", "Learning-rate schedule")
    warmup_steps: float = _field(0.03, "Warm-up steps; below 1, their share of all steps")
    eval_strategy: str = _field("epoch", "When to evaluate: no, steps or epoch")
    save_strategy: str = _field("epoch", "When to save: no, steps, epoch or best")
    include_num_input_tokens_seen: str = _field("non_padding", "Log how many tokens were read")
    save_total_limit: int | None = _field(2, "Maximum number of checkpoints kept")
    load_best_model_at_end: bool = _field(True, "Keep the best checkpoint, not the last one")
    metric_for_best_model: str | None = _field("loss", "Metric of the best model")
    remove_unused_columns: bool = _field(False, "Keep false: the trainer reads columns that the model does not know")
    prediction_loss_only: bool = _field(True, "Keep true: logits are too large to gather")

    def __post_init__(self) -> None:
        super().__post_init__()
        # The Trainer would pickle the token in clear next to the weights, and upload it with them.
        for name in ("push_to_hub", "hub_token"):
            if getattr(self, name):
                raise InputError(
                    f"{name} is not used: call push_to_hub(repo_id) of the trainer, with the token in HF_TOKEN"
                )
        # Without an accelerator there is nothing to pin memory for, and torch warns about it at every evaluation.
        self.dataloader_pin_memory &= torch.accelerator.is_available()
        if self.max_length < 2:
            raise InputError(f"max_length must be at least 2, got {self.max_length}")
        for name in ("draft_vocabulary", "prompt_window", "lora_rank"):
            if getattr(self, name, 0) < 0:
                raise InputError(f"{name} must be 0 or more, got {getattr(self, name)}")


@dataclass
class PretrainingArguments(_TrainerArguments):
    """Arguments of `PretrainingTrainer`: those of the Hugging Face Trainer with the paper's defaults, and one more.

    Args:
        max_length (`int`): Number of tokens of a packed row.
        dataloader_num_workers (`int`): Number of processes that tokenize and pack, too; 0 for this process only.
    """

    output_dir: str | None = _field("", "Folder of checkpoints and drafter (default: RUN_FOLDER/pretrain)")
    max_length: int = _field(2048, "Number of tokens of a packed row")
    per_device_train_batch_size: int = _field(2, "Number of rows in a device's batch")
    learning_rate: float = _field(3e-5, "Peak learning rate")
    include_num_input_tokens_seen: str = _field("all", "Log how many tokens were read")


@dataclass
class DrafterTrainingArguments(_TrainerArguments):
    """Arguments of `DrafterTrainer`: those of the Hugging Face Trainer with the paper's defaults, and its own.

    Args:
        max_length (`int`): Maximum number of tokens of a row; longer rows lose the end of their completion.
        loss_type (`str`): "cross_entropy" on the completions, or a comparison with the target's top k, which the rows
            then need: "topk_kl", "topk_tv" or "lk_hybrid" (see `training.losses`).
        per_device_train_tokens (`int`): Maximum number of tokens of a batch of rows of similar lengths, padding
            included, instead of `per_device_train_batch_size` rows; 0 for rows.
        draft_vocabulary (`int`): Size of the draft vocabulary, the most frequent ids of the completions; 0 for the one
            that the drafter was created with.
        prompt_window (`int`): Number of tokens at the end of the prompt that the network reads in addition to the
            first token, in training and when it drafts; 0 for all. Published in its configuration.
        kv_sharing_layers (`list[int]`): For each layer of the drafter the layer of the target whose keys and values
            for the verified tokens it attends to, usually the one that it started from; defaults to those of the
            drafter's configuration. The target then reads each batch too, with whole prompts, which must fit into
            `max_length` and the attention's window. Some batches are read without it, so that the same weights also
            draft without the target's keys.
        lora_rank (`int`): Rank of an adapter that is trained over a frozen base drafter; 0 to train all weights.
    """

    output_dir: str | None = _field("", "Folder of checkpoints and drafter (default: RUN_FOLDER/finetune)")
    loss_type: str = _field("cross_entropy", f"Loss: {', '.join(_LOSS_TYPES)}")
    per_device_train_tokens: int = _field(0, "Tokens in a device's batch, of rows of similar lengths; 0 to count rows")
    draft_vocabulary: int = _field(0, "Size of the draft vocabulary, the most frequent ids; 0 for the drafter's own")
    prompt_window: int = _field(
        0, "Tokens at the end of the prompt that the network reads besides the first; 0 for all"
    )
    kv_sharing_layers: list[int] = field(
        default_factory=list,
        metadata={"help": "Layers of the target whose keys and values the drafter's layers attend to, one each"},
    )
    lora_rank: int = _field(0, "Rank of an adapter trained over a base drafter; 0: none")
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
                    f"per_device_train_tokens {self.per_device_train_tokens} must hold a row of max_length "
                    f"{self.max_length}"
                )
            if self.train_sampling_strategy == "group_by_length":
                raise InputError("per_device_train_tokens groups by length itself: leave train_sampling_strategy out")
            self.per_device_train_batch_size = 1  # one group of rows
