"""What both trainers have in common: the reduction of a loss, saving and publishing, training to the end."""

import copy
import logging
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import datasets
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import IntervalStrategy

import drafter_trainer
from drafter_trainer.drafters.initialization import setup_of
from drafter_trainer.drafters.saving import TUNING
from drafter_trainer.errors import InputError
from drafter_trainer.extras import is_installed
from drafter_trainer.training.batches import fill_up
from drafter_trainer.training.collators import NOT_PREDICTED, supervised_tokens
from drafter_trainer.training.head import check_head, replaced_head, sum_losses
from drafter_trainer.training.losses import cross_entropy
from drafter_trainer.training.record import save_with_loop

_TIMING = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
_logger = logging.getLogger(__name__)


class TokenMeanTrainer(Trainer):
    """Train with the mean of a loss per token over all tokens of a global batch.

    Subclasses say what a token's loss is; shift and reduction are here and nowhere else. Only supervised positions
    reach the head, a few at a time (see `training.head`).
    """

    # The loss below is already divided by the tokens of all accumulated batches of all processes.
    loss_is_scaled_for_ga = True
    arguments_class: type[TrainingArguments] = TrainingArguments

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments | None = None,
        data_collator: Callable | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: list[TrainerCallback] | None = None,
        **kwargs: Any,
    ) -> None:
        args = self._without_evaluation(own_arguments(args, self.arguments_class), eval_dataset)
        if args.n_gpu > 1:  # DataParallel would divide a batch that compute_loss needs whole
            _logger.warning("training on one GPU of %d: accelerate launch trains on all", args.n_gpu)
            args = copy.copy(args)
            args._n_gpu = 1
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            **kwargs,
        )
        self.record: dict[str, Any] = {}  # what is said of this training in `drafter.json`, besides its arguments
        check_head(self.model)
        # Makes the Trainer count the supervised tokens of the global batch and pass them to compute_loss.
        self.model_accepts_loss_kwargs = True
        if self.train_dataset is not None:
            self.train_dataset = self.share_out(self.train_dataset)

    @staticmethod
    def _without_evaluation(args: TrainingArguments, eval_dataset: Any) -> TrainingArguments:
        """Return arguments that evaluate nothing where there is nothing to evaluate."""
        if eval_dataset is not None or args.eval_strategy == IntervalStrategy.NO:
            return args
        _logger.warning("there are no held-out rows: nothing is evaluated, and the last weights are kept")
        args = copy.copy(args)
        args.eval_strategy, args.load_best_model_at_end = IntervalStrategy.NO, False
        return args

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
            logits (`torch.Tensor` of shape `(tokens, vocabulary)`): The drafter's logits.
            tokens (`dict`): Of the same tokens their `labels`, of shape `(tokens,)`, and the batch's other columns.
        Returns:
            `torch.Tensor` of shape `(tokens,)`, in nats.
        """
        return cross_entropy(logits, tokens["labels"])

    def prepare(self, inputs: dict[str, torch.Tensor], training: bool) -> dict[str, Any]:
        """Return a batch as the drafter reads it, which may hold more in training than in evaluation."""
        return inputs

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
        inputs = self.prepare(inputs, model.training)
        supervised, tokens = supervised_tokens(inputs)
        drafter = self.accelerator.unwrap_model(model)

        def sum_of_losses(hidden: torch.Tensor) -> torch.Tensor:
            return sum_losses(
                hidden[:, :-1][supervised],
                drafter.get_output_embeddings(),
                lambda logits, place: self.token_losses(logits, {name: each[place] for name, each in tokens.items()}),
            )

        with replaced_head(drafter, sum_of_losses):
            read = {name: inputs[name] for name in NOT_PREDICTED if name in inputs}
            outputs = model(**read, use_cache=False)
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
                f"the loss is {loss.item()} after step {self.state.global_step}: train with a lower learning_rate or "
                f"in fp32, into another output_dir; a checkpoint in {self.args.output_dir} from before may be the "
                "initialization"
            )
        return (loss, outputs) if return_outputs else loss

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the drafter as a stock model with its tokenizer, its drafting loop and `drafter.json`.

        The loop is left out, with a warning, where it is not known which target the drafter is for.

        Args:
            output_dir (`str`, *optional*): Defaults to that of the arguments.
        """
        # The Trainer turns it off, and the drafter would keep it so.
        training, self.model.config.use_cache = self.model.config.use_cache, True
        try:
            super().save_model(output_dir, _internal_call=True)
        finally:
            self.model.config.use_cache = training
        if self.args.should_save and not _internal_call:
            save_with_loop(
                self.model,
                Path(output_dir or self.args.output_dir),
                self.processing_class,
                self._files(),
                self._training_record(),
            )

    def push_to_hub(self, repo_id: str | None = None, **options: Any) -> Any:
        """Save the drafter and publish it: one commit of a card and of files from a list, checked on arrival.

        The token is that of the environment (HF_TOKEN, or `hf auth login`).

        Args:
            repo_id (`str`, *optional*): Repository on the Hub; defaults to `hub_model_id` of the arguments, or to the
                drafter's name in your own account.
            options (`Any`): Further arguments of `drafter_trainer.publish`, such as `private` or `tag`.
        Returns:
            `Publication`, `None` on the other processes.
        """
        folder = Path(self.args.output_dir)
        if (folder / TUNING).is_dir():
            raise InputError(
                f"{folder} was tuned, which saving it again would undo: call publish({str(folder)!r}), or delete "
                f"{folder / TUNING} to publish it untuned"
            )
        self.save_model()
        if not self.is_world_process_zero():
            return None
        setup = setup_of(self.model)
        if setup is None:
            raise InputError("nobody knows which target the drafter is for: make it with create_drafter, or publish()")
        repo_id = repo_id or self.args.hub_model_id
        return drafter_trainer.publish(self.args.output_dir, setup.target, repo_id=repo_id, **options)

    def _files(self) -> dict[str, bytes]:
        """Return what the drafting loop reads besides the weights, by name."""
        return {}

    def _training_record(self) -> dict[str, Any]:
        """Return the training's record, under the name of its step."""
        raise NotImplementedError

    def _evaluated(self) -> dict[str, float]:
        """Return the figures of the last evaluation."""
        evaluations = [entry for entry in self.state.log_history if "eval_loss" in entry]
        return _figures(evaluations[-1]) if evaluations else {}


def train_to_end(trainer: Trainer) -> dict[str, float]:
    """Train from the last checkpoint, if there is one, and leave the best drafter in the output folder.

    Beside it stands `training.png`, the course of loss and acceptance, where matplotlib is installed.

    Returns:
        `dict` of the evaluation's figures for the drafter that was kept.
    """
    folder = trainer.args.output_dir
    trainer.train(resume_from_checkpoint=_last_checkpoint(Path(folder)))
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero() and is_installed("matplotlib"):
        from drafter_trainer.training.plots import plot_training

        plot_training(trainer.state.log_history, Path(folder) / "training.png")
    trainer.save_model(folder)
    return _figures(metrics)


def _figures(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name.startswith("eval_") and name not in _TIMING}


def _last_checkpoint(folder: Path) -> str | None:
    # The Trainer writes its state last, so a checkpoint without it was cut off and cannot be gone on from.
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{TRAINER_STATE_NAME}")]
    last = max(whole, key=lambda checkpoint: int(checkpoint.name.rpartition("-")[2]), default=None)
    return None if last is None else str(last)


def own_arguments(args: TrainingArguments | None, kind: type[TrainingArguments]) -> Any:
    """Return arguments of a trainer's own kind: the given ones, plain ones completed, or defaults."""
    if isinstance(args, kind):
        return args
    if args is None:
        return kind(output_dir="drafter")
    plain = {entry.name: getattr(args, entry.name) for entry in fields(TrainingArguments) if entry.init}
    return kind(**plain | {"remove_unused_columns": False, "prediction_loss_only": True})


def tokenizer_of(model: torch.nn.Module) -> PreTrainedTokenizerBase | None:
    """Load the tokenizer of the target that a drafter was created for."""
    setup = setup_of(model)
    return setup.target.load_tokenizer() if setup else None
