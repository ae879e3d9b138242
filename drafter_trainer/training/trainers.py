"""The two trainers: pretraining on packed text, finetuning on the target's own answers."""

import logging
from pathlib import Path
from typing import Any

import datasets
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import EvalLoopOutput

from drafter_trainer.drafters.adapters import ADAPTER
from drafter_trainer.drafters.vocabulary import map_ids, narrow_head, widen_head
from drafter_trainer.errors import InputError
from drafter_trainer.training.batches import GroupedRows, fill_up
from drafter_trainer.training.collators import supervised_tokens
from drafter_trainer.training.evaluator import evaluate_acceptance
from drafter_trainer.training.head import check_head, replaced_head, sum_losses
from drafter_trainer.training.losses import TOPK_LOSSES, cross_entropy
from drafter_trainer.training.plots import plot_training
from drafter_trainer.training.rows import SCORE_THEM, has_topk

_logger = logging.getLogger(__name__)


class _TokenMeanTrainer(Trainer):
    """Train with the mean of a loss per token over all tokens of a global batch.

    Subclasses say what a token's loss is; shift and reduction are here and nowhere else. Only supervised positions
    reach the head, a few at a time (see `training.head`).
    """

    # The loss below is already divided by the tokens of all accumulated batches of all processes.
    loss_is_scaled_for_ga = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_head(self.model)
        # Makes the Trainer count the supervised tokens of the global batch and pass them to compute_loss.
        self.model_accepts_loss_kwargs = True
        self._rows = self.train_dataset
        if self.train_dataset is not None:
            self.train_dataset = self.share_out(self.train_dataset)

    def share_out(self, rows: datasets.Dataset) -> Dataset:
        """Add rows of which nothing is supervised until all processes get as many; see `fill_up`."""
        if self.args.world_size == 1:
            return rows
        return fill_up(rows, self.args.world_size * self.args.per_device_train_batch_size, self.unsupervised(rows[0]))

    def unsupervised(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a row like this one of which nothing is supervised."""
        raise NotImplementedError

    def token_losses(self, logits: torch.Tensor, tokens: dict[str, torch.Tensor]) -> torch.Tensor:
        """Compute the loss of each supervised token.

        Args:
            logits (`torch.Tensor` of shape `(tokens, vocabulary)`): What the drafter says of them.
            tokens (`dict`): Of the same tokens their `labels`, of shape `(tokens,)`, and the batch's other columns.
        Returns:
            `torch.Tensor` of shape `(tokens,)`, in nats.
        """
        return cross_entropy(logits, tokens["labels"])

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Shift by one, choose the supervised positions, and reduce to a mean over the global batch.

        Raises:
            InputError: If the loss of training is not finite: all that follows would be lost, and the Trainer's log
                would not say so.
        """
        supervised, tokens = supervised_tokens(inputs)
        drafter = self.accelerator.unwrap_model(model)

        def sum_of_losses(hidden: torch.Tensor) -> torch.Tensor:
            return sum_losses(
                hidden[:, :-1][supervised],
                drafter.get_output_embeddings(),
                lambda logits, place: self.token_losses(logits, {name: each[place] for name, each in tokens.items()}),
            )

        with replaced_head(drafter, sum_of_losses):
            outputs = model(
                input_ids=inputs["input_ids"], attention_mask=inputs.get("attention_mask"), use_cache=False
            )
        if num_items_in_batch is None:
            count, scale = len(tokens["labels"]), 1
        else:
            # Processes average their gradients; the count is over all of them unless told otherwise.
            count = num_items_in_batch
            scale = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        # Prompts that fill max_length leave nothing supervised, and 0 / 0 is no loss.
        loss = outputs.logits * scale / torch.as_tensor(count).clamp(min=1)
        if model.training and not loss.isfinite():
            raise InputError(
                f"the loss is {loss.item()} after step {self.state.global_step}: train with a lower --learning_rate "
                f"or in fp32, into another --output_dir; a checkpoint in {self.args.output_dir} from before may be "
                "its --initialization"
            )
        return (loss, outputs) if return_outputs else loss

    def finish(self) -> None:
        """Make the drafter a stock model again."""
        self.model.config.use_cache = True  # the Trainer turns it off, and the drafter would keep it so


class PretrainingTrainer(_TokenMeanTrainer):
    """Pretrain a drafter on packed rows with cross-entropy (see `collate_packed`)."""

    def unsupervised(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a row of no tokens; see the base class."""
        return row | {"input_ids": [-1] * len(row["input_ids"])}


class FinetuningTrainer(_TokenMeanTrainer):
    """Finetune a drafter on self-distilled rows, with their acceptance evaluated on held-out ones.

    The loss is `args.loss_type`'s. Evaluation adds `eval_greedy_agreement` and `eval_expected_alpha`, either of which
    `metric_for_best_model` may name. Held-out rows without log-probabilities are evaluated by their loss alone.

    Args:
        draft_ids (`torch.Tensor` of shape `(draft vocabulary,)`, *optional*): Logits are computed over these ids
            alone, by a narrow head (see `drafters.vocabulary`).
    """

    def __init__(self, *args: Any, draft_ids: torch.Tensor | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.draft_ids = draft_ids
        if self.args.lora_rank:
            self._whole_head, self._tied = self.model.get_output_embeddings(), self.model.config.tie_word_embeddings
        if draft_ids is not None:
            if self.is_fsdp_enabled:
                raise InputError("a draft vocabulary cannot be trained with FSDP: a drafter is small, launch with DDP")
            narrow_head(self.model, draft_ids)
            self.draft_ids = draft_ids.to(self.args.device)
        self._check_topk()

    def _check_topk(self) -> None:
        """Refuse training rows that lack what the loss compares with; go by the loss where held-out rows lack it."""
        arguments = self.args
        if self._rows is not None and arguments.loss_type in TOPK_LOSSES and not has_topk(self._rows):
            raise InputError(
                f"loss_type {arguments.loss_type} compares with the target's log-probabilities, which some rows lack: "
                f"{SCORE_THEM}"
            )
        self._evaluates_acceptance = self.eval_dataset is None or has_topk(self.eval_dataset)
        if not self._evaluates_acceptance and arguments.metric_for_best_model in (
            "expected_alpha",
            "greedy_agreement",
        ):
            _logger.warning(
                "held-out rows lack log-probabilities: the best checkpoint is chosen by their loss, not by %s; %s",
                arguments.metric_for_best_model,
                SCORE_THEM.partition(";")[0],
            )
            arguments.metric_for_best_model, arguments.greater_is_better = "loss", False

    def share_out(self, rows: datasets.Dataset) -> Dataset:
        """Group rows by tokens where `args.per_device_train_tokens` says so; see the base class."""
        arguments = self.args
        if not arguments.per_device_train_tokens:
            return super().share_out(rows)
        nothing = self.unsupervised(rows[0])
        tokens, seed = arguments.per_device_train_tokens, arguments.seed
        return GroupedRows(rows, arguments.max_length, tokens, seed, arguments.world_size, nothing)

    def unsupervised(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a prompt without an answer; see the base class."""
        return row | {"response_ids": []}

    def token_losses(self, logits: torch.Tensor, tokens: dict[str, torch.Tensor]) -> torch.Tensor:
        """Compute the loss of `args.loss_type`; see the base class."""
        if self.args.loss_type == cross_entropy.__name__:
            return cross_entropy(logits, self._place(tokens["labels"]))
        return TOPK_LOSSES[self.args.loss_type](logits, self._place(tokens["topk_ids"]), tokens["topk_logprobs"])

    def _place(self, ids: torch.Tensor) -> torch.Tensor:
        return ids if self.draft_ids is None else map_ids(ids, self.draft_ids)

    def finish(self) -> None:
        """Make the drafter a stock model again, its adapter merged; the adapter itself goes to `adapter/`."""
        if self.args.lora_rank:
            if self.args.should_save:
                self.model.save_pretrained(Path(self.args.output_dir) / ADAPTER)
            self.model = self.model.merge_and_unload()
            self.model.config.tie_word_embeddings = self._tied
            self.model.set_output_embeddings(self._whole_head)  # it was not trained
        elif self.draft_ids is not None:
            widen_head(self.model, self.draft_ids)
        self.draft_ids = None
        super().finish()

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
        if not self._evaluates_acceptance:
            return output
        acceptance = evaluate_acceptance(self.model, dataloader, self.accelerator, self.draft_ids)
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in acceptance.items()})
        return output


def train_to_end(trainer: _TokenMeanTrainer) -> dict[str, float]:
    """Train from the last checkpoint, if there is one, and leave the best drafter in the output folder.

    Beside it stands `training.png`, the course of loss and acceptance.

    Returns:
        `dict` of the evaluation's figures for the drafter that was kept.
    """
    folder = trainer.args.output_dir
    trainer.train(resume_from_checkpoint=_last_checkpoint(Path(folder)))
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        plot_training(trainer.state.log_history, Path(folder) / "training.png")
    trainer.finish()
    trainer.save_model(folder)
    timing = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
    return {name: value for name, value in metrics.items() if name.startswith("eval_") and name not in timing}


def _last_checkpoint(folder: Path) -> str | None:
    # The Trainer writes its state last, so a checkpoint without it was cut off and cannot be gone on from.
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{TRAINER_STATE_NAME}")]
    last = max(whole, key=lambda checkpoint: int(checkpoint.name.rpartition("-")[2]), default=None)
    return None if last is None else str(last)
