"""The two trainers: pretraining on packed text, finetuning on the target's own answers."""

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import EvalLoopOutput

from drafter_trainer.drafters.vocabulary import map_ids, narrow_head, widen_head
from drafter_trainer.errors import InputError
from drafter_trainer.training.collators import IGNORED
from drafter_trainer.training.evaluator import evaluate_acceptance
from drafter_trainer.training.losses import cross_entropy, topk_acceptance, topk_kl


class _TokenMeanTrainer(Trainer):
    """Train with the mean of a loss per token over all tokens of a global batch.

    Subclasses say what a token's loss is; shift and reduction are here and nowhere else.
    """

    # The loss below is already divided by the tokens of all accumulated batches of all processes.
    loss_is_scaled_for_ga = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Makes the Trainer count the supervised tokens of the global batch and pass them to compute_loss.
        self.model_accepts_loss_kwargs = True

    def token_losses(
        self, logits: torch.Tensor, labels: torch.Tensor, inputs: dict[str, torch.Tensor], supervised: torch.Tensor
    ) -> torch.Tensor:
        """Compute the loss of each supervised token.

        Args:
            logits (`torch.Tensor` of shape `(tokens, vocabulary)`): At supervised positions alone.
            labels (`torch.Tensor` of shape `(tokens,)`): The token that comes there.
            inputs (`dict`): The whole batch.
            supervised (`torch.Tensor` of shape `(batch, length - 1)`): Which positions of `labels[:, 1:]` they are.
        Returns:
            `torch.Tensor` of shape `(tokens,)`, in nats.
        """
        return cross_entropy(logits, labels)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Shift by one, choose the supervised positions, and reduce to a mean over the global batch."""
        labels = inputs["labels"][:, 1:]
        supervised = labels != IGNORED
        # The head is the costliest part of a small model: leave out the columns that every row spends on its prompt.
        first = int(supervised.any(dim=0).int().argmax())
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs.get("attention_mask"),
            use_cache=False,
            logits_to_keep=labels.shape[1] - first + 1,
        )
        logits = outputs.logits[:, :-1][supervised[:, first:]]
        losses = self.token_losses(logits, labels[supervised], inputs, supervised)
        if num_items_in_batch is None:
            loss = losses.mean()
        else:
            # Processes average their gradients; the count is over all of them unless told otherwise.
            scale = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
            # Prompts that fill max_length leave nothing supervised, and 0 / 0 is no loss.
            loss = losses.sum() * scale / torch.as_tensor(num_items_in_batch).clamp(min=1)
        return (loss, outputs) if return_outputs else loss


class PretrainingTrainer(_TokenMeanTrainer):
    """Pretrain a drafter on packed rows with cross-entropy (see `collate_packed`)."""


class FinetuningTrainer(_TokenMeanTrainer):
    """Finetune a drafter on self-distilled rows, with their acceptance evaluated on held-out ones.

    The loss mixes top-k KL by `args.kl_weight` and top-k acceptance by `args.acceptance_weight`; the rest is
    cross-entropy. Evaluation adds `eval_greedy_agreement` and `eval_expected_alpha`, either of which
    `metric_for_best_model` may name.

    Args:
        draft_ids (`torch.Tensor` of shape `(draft vocabulary,)`, *optional*): Logits are computed over these ids
            alone, by a narrow head (see `drafters.vocabulary`).
    """

    def __init__(self, *args: Any, draft_ids: torch.Tensor | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.draft_ids = draft_ids
        if draft_ids is not None:
            if self.is_fsdp_enabled:
                raise InputError("a draft vocabulary cannot be trained with FSDP: a drafter is small, launch with DDP")
            narrow_head(self.model, draft_ids)
            self.draft_ids = draft_ids.to(self.args.device)

    def token_losses(
        self, logits: torch.Tensor, labels: torch.Tensor, inputs: dict[str, torch.Tensor], supervised: torch.Tensor
    ) -> torch.Tensor:
        """Mix cross-entropy, top-k KL and top-k acceptance; see the base class."""
        weights = {topk_kl: self.args.kl_weight, topk_acceptance: self.args.acceptance_weight}
        loss = torch.zeros_like(logits[:, 0], dtype=torch.float32)
        if (rest := 1 - sum(weights.values())) > 0:
            loss = loss + rest * cross_entropy(logits, self._place(labels))
        if rest < 1:
            topk_ids, topk_logprobs = inputs["topk_ids"][:, 1:][supervised], inputs["topk_logprobs"][:, 1:][supervised]
            topk_ids = self._place(topk_ids)
            for topk_loss, weight in weights.items():
                if weight > 0:
                    loss = loss + weight * topk_loss(logits, topk_ids, topk_logprobs)
        return loss

    def _place(self, ids: torch.Tensor) -> torch.Tensor:
        return ids if self.draft_ids is None else map_ids(ids, self.draft_ids)

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluate the loss as every Trainer does, then the acceptance, and merge both."""
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        acceptance = evaluate_acceptance(self.model, dataloader, self.accelerator, self.draft_ids)
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in acceptance.items()})
        return output


def train_to_end(trainer: Trainer) -> dict[str, float]:
    """Train from the last checkpoint, if there is one, and leave the best drafter in the output folder.

    Returns:
        `dict` of the evaluation's figures for the drafter that was kept.
    """
    folder = trainer.args.output_dir
    trainer.train(resume_from_checkpoint=_last_checkpoint(Path(folder)))
    metrics = trainer.evaluate()
    if getattr(trainer, "draft_ids", None) is not None:
        widen_head(trainer.model, trainer.draft_ids)
        trainer.draft_ids = None
    trainer.model.config.use_cache = True  # the Trainer turns it off, and the drafter would keep it so
    trainer.save_model(folder)
    timing = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
    return {name: value for name, value in metrics.items() if name.startswith("eval_") and name not in timing}


def _last_checkpoint(folder: Path) -> str | None:
    # The Trainer writes its state last, so a checkpoint without it was cut off and cannot be gone on from.
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{TRAINER_STATE_NAME}")]
    last = max(whole, key=lambda checkpoint: int(checkpoint.name.rpartition("-")[2]), default=None)
    return None if last is None else str(last)
