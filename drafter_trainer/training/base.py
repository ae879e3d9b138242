"""Base of the trainers: reduction of the loss, saving and publishing, training to the end."""

import copy
import logging
import re
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import IntervalStrategy

import drafter_trainer
from drafter_trainer.drafters.initialization import setup_of
from drafter_trainer.drafters.saving import TUNING, complete_folder, describe_drafter, size_of
from drafter_trainer.errors import InputError
from drafter_trainer.provenance import without_folders
from drafter_trainer.training.collators import NOT_PREDICTED, supervised_tokens
from drafter_trainer.training.head import check_head, replaced_head, sum_losses
from drafter_trainer.training.losses import cross_entropy

_TIMING = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
# Arguments in the record of a training.
_RECORDED = (
    "max_length",
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "per_device_train_batch_size",
    "per_device_train_tokens",
    "gradient_accumulation_steps",
    "loss_type",
    "prompt_window",
    "lora_rank",
)
_logger = logging.getLogger(__name__)


class TokenMeanTrainer(Trainer):
    """A trainer whose loss is the mean over all supervised tokens of a global batch.

    Subclasses define the loss of a token. Only supervised positions reach the head, a few at a time (see
    `training.head`).

    Args:
        args (`TrainingArguments`): Arguments of the subclass's own class, see `own_arguments`.
    """

    # The loss below is already divided by the tokens of all accumulated batches of all processes.
    loss_is_scaled_for_ga = True
    step_name: ClassVar[str]

    def __init__(self, model: PreTrainedModel, args: TrainingArguments, **options: Any) -> None:
        if options.get("eval_dataset") is None and args.eval_strategy != IntervalStrategy.NO:
            _logger.warning("there are no held-out rows: nothing is evaluated, and the last weights are kept")
            args = copy.copy(args)
            args.eval_strategy, args.load_best_model_at_end = IntervalStrategy.NO, False
        if args.n_gpu > 1:  # DataParallel would divide a batch that compute_loss needs whole
            _logger.warning("training on one GPU of %d: accelerate launch trains on all", args.n_gpu)
            args = copy.copy(args)
            args._n_gpu = 1
        super().__init__(model, args, **options)
        self.record: dict[str, Any] = {}  # further facts for `drafter.json`
        check_head(self.model)
        # Makes the Trainer count the supervised tokens of the global batch and pass them to compute_loss.
        self.model_accepts_loss_kwargs = True

    def token_losses(self, logits: torch.Tensor, tokens: dict[str, torch.Tensor]) -> torch.Tensor:
        """Compute the loss of each supervised token.

        Args:
            logits (`torch.Tensor` of shape `(tokens, vocabulary)`): The drafter's logits.
            tokens (`dict`): The tokens' `labels`, of shape `(tokens,)`, the batch's other columns, and `rows`, the
                index of each token's row in the batch.
        Returns:
            `torch.Tensor` of shape `(tokens,)`, in nats.
        """
        return cross_entropy(logits, tokens["labels"])

    def prepare(self, inputs: dict[str, torch.Tensor], training: bool) -> dict[str, Any]:
        """Return a batch as the drafter reads it."""
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
            InputError: If the training loss is not finite. The Trainer would log a falling loss and go on.
        """
        inputs = self.prepare(inputs, model.training)
        supervised, tokens = supervised_tokens(inputs)
        tokens["rows"] = supervised.nonzero()[:, 0]
        drafter = self.accelerator.unwrap_model(model)

        def sum_of_losses(hidden: torch.Tensor) -> torch.Tensor:
            return sum_losses(
                hidden[:, :-1][supervised],
                drafter.get_output_embeddings(),
                lambda logits, piece: self.token_losses(logits, {key: rows[piece] for key, rows in tokens.items()}),
            )

        with replaced_head(drafter, sum_of_losses):
            read = {name: inputs[name] for name in NOT_PREDICTED if name in inputs}
            outputs = model(**read, use_cache=False)
        if num_items_in_batch is None:
            count, scale = len(tokens["labels"]), 1
        else:
            # Processes average their gradients, and the count covers all processes by default.
            count = num_items_in_batch
            scale = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        # Prompts that fill max_length leave nothing supervised, and 0 / 0 is no loss.
        loss = outputs.logits * scale / torch.as_tensor(count).clamp(min=1)
        if model.training and not loss.isfinite():
            raise InputError(
                f"the loss is {loss.item()} after step {self.state.global_step}: train with a lower learning_rate or "
                "in fp32, into another output_dir; the initialization may be an earlier checkpoint in "
                f"{self.args.output_dir}"
            )
        return (loss, outputs) if return_outputs else loss

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the drafter as a stock model with its tokenizer, its drafting loop and `drafter.json`.

        The loop is left out, with a warning, if the drafter's target is not known.

        Args:
            output_dir (`str`, *optional*): Defaults to that of the arguments.
        """
        # The Trainer turns use_cache off, and the saved drafter must not keep that.
        training, self.model.config.use_cache = self.model.config.use_cache, True
        try:
            super().save_model(output_dir, _internal_call=True)
        finally:
            self.model.config.use_cache = training
        if not self.args.should_save or _internal_call:
            return
        setup, folder = setup_of(self.model), Path(output_dir or self.args.output_dir)
        if setup is None or self.processing_class is None:
            _logger.warning(
                "%s has a stock model without its drafting loop, since the drafter's target is not known: make "
                "drafters with create_drafter, or name the target to publish()",
                folder,
            )
            return
        spoken = str(setup.pair or "-".join(language.code for language in setup.languages))
        name = "-".join(filter(None, (re.split("[/:]", setup.target.name)[-1], "drafter", spoken)))
        facts = {"training": setup.training | self.training_record(), "size": size_of(self.model)}
        description = describe_drafter(name, setup.target, setup.languages, setup.pair, **facts)
        shutil.rmtree(folder / TUNING, ignore_errors=True)  # of earlier weights
        complete_folder(folder, description, self.processing_class, self.loop_files())

    def push_to_hub(self, repo_id: str | None = None, **options: Any) -> Any:
        """Save the drafter, and publish it with a card in one commit, which is checked after the upload.

        Only files of an allow-list are sent. The token is read from the environment (HF_TOKEN, or `hf auth login`).

        Args:
            repo_id (`str`, *optional*): Repository on the Hub; defaults to `hub_model_id` of the arguments, or to the
                drafter's name in your own account.
            options (`Any`): Further arguments of `drafter_trainer.publish`, such as `private` or `tag`.
        Returns:
            `Publication`, or `None` on all processes but the first.
        """
        folder = Path(self.args.output_dir)
        if (folder / TUNING).is_dir():
            raise InputError(
                f"{folder} was tuned, and to save it again would undo that: call publish({str(folder)!r}), or delete "
                f"{folder / TUNING} to publish the untuned drafter"
            )
        self.save_model()
        if not self.is_world_process_zero():
            return None
        setup = setup_of(self.model)
        if setup is None:
            raise InputError("the drafter's target is not known: make it with create_drafter, or call publish()")
        repo_id = repo_id or self.args.hub_model_id
        return drafter_trainer.publish(self.args.output_dir, setup.target, repo_id=repo_id, **options)

    def loop_files(self) -> dict[str, bytes]:
        """Return the files that the drafting loop reads, by name."""
        return {}

    def training_record(self) -> dict[str, Any]:
        """Return the record of the training, by the name of its step."""
        evaluations = [entry for entry in self.state.log_history if "eval_loss" in entry]
        figures = _figures(evaluations[-1]) if evaluations else {}
        return {self.step_name: describe_training(self.model, self.args) | self.record | figures}


def describe_training(model: PreTrainedModel, args: TrainingArguments) -> dict[str, Any]:
    """Describe how a drafter is trained: its initialization, and the arguments that decide the result."""
    setup = setup_of(model)
    start = {"initialization": without_folders(setup.initialization)} if setup else {}
    values = {name: getattr(args, name) for name in _RECORDED if getattr(args, name, 0) not in (0, -1)}
    return start | {"num_hidden_layers": model.config.num_hidden_layers} | values


def train_to_end(trainer: Trainer) -> dict[str, float]:
    """Train from the last checkpoint, if there is one, and save the best drafter in the output folder.

    Returns:
        `dict` of the evaluation's figures for the drafter that was kept.
    """
    folder = trainer.args.output_dir
    # The Trainer writes its state last: a checkpoint without it is incomplete.
    whole = [path.parent for path in Path(folder).glob(f"checkpoint-*/{TRAINER_STATE_NAME}")]
    last = max(whole, key=lambda checkpoint: int(checkpoint.name.rpartition("-")[2]), default=None)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    metrics = trainer.evaluate()
    trainer.save_model(folder)
    return _figures(metrics)


def _figures(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name.startswith("eval_") and name not in _TIMING}


def own_arguments(args: TrainingArguments | None, own: type[TrainingArguments]) -> Any:
    """Return arguments of a trainer's own class, completed from plain `TrainingArguments` or from defaults."""
    if isinstance(args, own):
        return args
    if args is None:
        return own(output_dir="drafter")
    plain = {entry.name: getattr(args, entry.name) for entry in fields(TrainingArguments) if entry.init}
    return own(**plain | {"remove_unused_columns": False, "prediction_loss_only": True})


def tokenizer_of(model: torch.nn.Module) -> PreTrainedTokenizerBase | None:
    """Load the tokenizer of the target that a drafter was created for, `None` if the target is not known."""
    setup = setup_of(model)
    return setup.target.load_tokenizer() if setup else None
