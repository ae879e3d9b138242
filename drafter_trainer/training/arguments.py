"""Arguments of the trainers; everything else is `transformers.TrainingArguments`."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from transformers import TrainingArguments

from drafter_trainer.errors import InputError
from drafter_trainer.training.losses import TOPK_LOSSES, cross_entropy

_LOSS_TYPES = (cross_entropy.__name__, *TOPK_LOSSES)
# The Trainer would pickle the token in clear beside the weights, and upload it with them.
_UNSAFE = ("push_to_hub", "hub_token")


@dataclass
class _TrainerArguments(TrainingArguments):
    """Defaults that the trainers have in common, and their checks."""

    _argument_group_name: ClassVar[str] = "training"  # of the command line

    max_length: int = field(
        default=2048, metadata={"help": "Maximum number of tokens of a row; longer rows lose their end"}
    )
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning-rate schedule"})
    warmup_steps: float = field(default=0.03, metadata={"help": "Warm-up steps; below 1, their share of all steps"})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch"})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: no, steps, epoch or best"})
    include_num_input_tokens_seen: str = field(
        default="non_padding", metadata={"help": "Log how many tokens were read"}
    )
    save_total_limit: int | None = field(default=2, metadata={"help": "Maximum number of checkpoints kept"})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "Keep the best checkpoint, not the last one"})
    metric_for_best_model: str | None = field(default="loss", metadata={"help": "Metric of the best model"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in _UNSAFE:
            if getattr(self, name):
                raise InputError(
                    f"{name} is not used: call push_to_hub(repo_id) of the trainer, with the token in HF_TOKEN"
                )
        # Without an accelerator there is nothing to pin memory for, and torch warns of it at every evaluation.
        self.dataloader_pin_memory &= torch.accelerator.is_available()
        if self.max_length < 2:
            raise InputError(f"max_length must be at least 2, got {self.max_length}")


@dataclass
class PretrainingArguments(_TrainerArguments):
    """Arguments of `PretrainingTrainer`: those of the Hugging Face Trainer with the paper's defaults, and one more.

    Args:
        max_length (`int`): Tokens of a packed row.
        dataloader_num_workers (`int`): Number of processes that tokenize and pack, too; 0 for this process alone.
    """

    output_dir: str | None = field(
        default="", metadata={"help": "Folder of checkpoints and drafter (default: RUN_FOLDER/pretrain)"}
    )
    max_length: int = field(default=2048, metadata={"help": "Number of tokens of a packed row"})
    per_device_train_batch_size: int = field(default=2, metadata={"help": "Number of rows in a device's batch"})
    learning_rate: float = field(default=3e-5, metadata={"help": "Peak learning rate"})
    include_num_input_tokens_seen: str = field(default="all", metadata={"help": "Log how many tokens were read"})


@dataclass
class DrafterTrainingArguments(_TrainerArguments):
    """Arguments of `DrafterTrainer`: those of the Hugging Face Trainer with the paper's defaults, and its own.

    Args:
        max_length (`int`): Rows longer than this lose the end of their answer.
        loss_type (`str`): "cross_entropy" on the completions, or a comparison with the target's top k, which the rows
            must have then: "topk_kl", "topk_tv", "lk_hybrid" (see `training.losses`).
        per_device_train_tokens (`int`): Maximum number of tokens of a batch of rows of like lengths, padding included,
            in place of `per_device_train_batch_size` rows; 0 for rows.
        draft_vocabulary (`int`): Size of the draft vocabulary, the most frequent ids of the completions; 0 for the one
            that the drafter was created with.
        prompt_window (`int`): Number of tokens at the end of the prompt that the network reads besides the first
            token, in training and when it drafts; 0 for all. Published as `prompt_window` of its configuration.
        kv_sharing_layers (`list[int]`): For each layer of the drafter the layer of the target whose keys and values of
            the verified tokens it attends to, mostly the one that it started from; those of the drafter's
            configuration if left out. The target then runs beside training, on whole prompts, which `max_length` and
            the attention's window must hold. Some batches are read without it, so that the same weights draft alone.
        lora_rank (`int`): Train an adapter of this rank over a base drafter, which stays as it is; 0 for all weights.
    """

    output_dir: str | None = field(
        default="", metadata={"help": "Folder of checkpoints and drafter (default: RUN_FOLDER/finetune)"}
    )
    loss_type: str = field(default="cross_entropy", metadata={"help": f"Loss: {', '.join(_LOSS_TYPES)}"})
    per_device_train_tokens: int = field(
        default=0, metadata={"help": "Tokens in a device's batch, of rows of similar lengths; 0 to count rows"}
    )
    draft_vocabulary: int = field(
        default=0, metadata={"help": "Size of the draft vocabulary, the most frequent ids; 0 for the drafter's own"}
    )
    prompt_window: int = field(
        default=0,
        metadata={"help": "Tokens at the end of the prompt that the network reads besides the first; 0 for all"},
    )
    kv_sharing_layers: list[int] = field(
        default_factory=list,
        metadata={"help": "Layers of the target whose keys and values the drafter's layers attend to, one each"},
    )
    lora_rank: int = field(default=0, metadata={"help": "Rank of an adapter trained over a base drafter; 0: none"})
    per_device_train_batch_size: int = field(default=2, metadata={"help": "Number of rows in a device's batch"})
    learning_rate: float = field(default=2e-5, metadata={"help": "Peak learning rate"})
    metric_for_best_model: str | None = field(default="expected_alpha", metadata={"help": "Metric of the best model"})
    # The trainer reads columns of its own, which the model's forward does not know.
    remove_unused_columns: bool = field(default=False, metadata={"help": "Keep false: the loss reads the top k"})
    prediction_loss_only: bool = field(default=True, metadata={"help": "Keep true: logits are too large to gather"})

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
        for name in ("draft_vocabulary", "prompt_window", "lora_rank"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be 0 or more, got {getattr(self, name)}")
