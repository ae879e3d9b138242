"""The two trainers: pretraining on packed text, finetuning on the target's own completions."""

import copy
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from drafter_trainer.drafters.adapters import ADAPTER, add_adapter, is_adapter, merged_copy
from drafter_trainer.drafters.initialization import setup_of
from drafter_trainer.drafters.loop.repository import VOCABULARY
from drafter_trainer.drafters.vocabulary import choose_ids, count_ids, coverage, map_ids, prune_head, vocabulary_bytes
from drafter_trainer.errors import InputError
from drafter_trainer.training.arguments import DrafterTrainingArguments, PretrainingArguments
from drafter_trainer.training.base import TokenMeanTrainer, own_arguments, tokenizer_of
from drafter_trainer.training.batches import GroupedRows
from drafter_trainer.training.collators import SelfDistilledCollator, collate_packed
from drafter_trainer.training.evaluator import evaluate_acceptance
from drafter_trainer.training.kv_sharing import KeySharing
from drafter_trainer.training.losses import TOPK_LOSSES, cross_entropy
from drafter_trainer.training.packing import pack_texts
from drafter_trainer.training.record import describe_training
from drafter_trainer.training.rows import (
    SCORE_THEM,
    Rows,
    count_response_tokens,
    has_topk,
    read_datasets,
    with_lengths,
    with_row_columns,
)

_logger = logging.getLogger(__name__)


class PretrainingTrainer(TokenMeanTrainer):
    """Pretrain a drafter on text with cross-entropy.

    Args:
        model (`PreTrainedModel`): A drafter, such as `create_drafter` makes one.
        args (`TrainingArguments`, *optional*): `PretrainingArguments`, or plain ones.
        train_dataset, eval_dataset (`datasets.Dataset`, *optional*): Rows of `text` or `messages`, which are tokenized
            and packed here, or packed rows of `input_ids` (see `collate_packed`).
        kwargs (`Any`): As for `Trainer`.
    """

    arguments_class = PretrainingArguments

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments | None = None,
        data_collator: Callable | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        args = own_arguments(args, self.arguments_class)
        setup = setup_of(model)
        processing_class = processing_class or tokenizer_of(model)
        packed = partial(pack_texts, target=setup and setup.target, length=args.max_length)
        super().__init__(
            model,
            args,
            data_collator or collate_packed,
            packed(train_dataset),
            packed(eval_dataset),
            processing_class,
            **kwargs,
        )

    def unsupervised(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a row of no tokens; see the base class."""
        return row | {"input_ids": [-1] * len(row["input_ids"])}

    def _training_record(self) -> dict[str, Any]:
        return {"pretrain": describe_training(self.model, self.args) | self.record | self._evaluated()}


class DrafterTrainer(TokenMeanTrainer):
    """Finetune a drafter on self-distilled rows, with their acceptance evaluated on held-out ones.

    The loss is `args.loss_type`'s. Evaluation adds `eval_greedy_agreement` and `eval_expected_alpha`, either of which
    `metric_for_best_model` may name; of rows without the target's top k it adds `eval_accuracy` in place of both.

    Args:
        model (`PreTrainedModel`): A drafter, such as `create_drafter` makes one.
        args (`TrainingArguments`, *optional*): `DrafterTrainingArguments`, or plain ones.
        train_dataset (`Rows`, `str`, `Path` or `datasets.Dataset`, *optional*): What `distill` returns, its folder, or
            rows of `prompt_ids` and `completion_ids`, with or without `topk_ids` and `topk_logprobs`.
        eval_dataset (`datasets.Dataset`, *optional*): Held-out rows; those of the folder if left out.
        draft_ids (`torch.Tensor` of shape `(draft vocabulary,)`, *optional*): Logits are computed over these ids
            alone (see `drafters.vocabulary`). Default to what drafter and arguments say.
        kwargs (`Any`): As for `Trainer`.
    Raises:
        InputError: If the rows do not have what the loss reads, or were given by another target.
    """

    arguments_class = DrafterTrainingArguments

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments | None = None,
        data_collator: Callable | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        draft_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        args, setup = own_arguments(args, self.arguments_class), setup_of(model)
        train_dataset, held_out, self.rows = read_datasets(train_dataset, setup and setup.target)
        eval_dataset = held_out if eval_dataset is None else with_row_columns(eval_dataset)
        processing_class = processing_class or tokenizer_of(model)
        _check_topk(args, train_dataset)
        args = _with_known_metric(args, eval_dataset)
        model.config.prompt_window = args.prompt_window or None
        self._facts = {}
        self._sharing = KeySharing(model, args, setup and setup.target)
        if draft_ids is None and (size := args.draft_vocabulary or (setup.draft_vocabulary if setup else 0)):
            draft_ids = self._choose_draft_ids(size, train_dataset, model.config.vocab_size, processing_class)
        if args.lora_rank and not is_adapter(model):
            model = add_adapter(model, args.lora_rank)
        if data_collator is None:
            pad_id = processing_class.pad_token_id if processing_class else None
            window = 0 if self._sharing.layers else args.prompt_window
            data_collator = SelfDistilledCollator(pad_id or 0, self._sharing.max_length, window)
        if self._sharing.layers:
            self._facts["kv_sharing_layers"] = self._sharing.layers
        for name, rows in (("train_rows", train_dataset), ("validation_rows", eval_dataset)):
            if hasattr(rows, "__len__"):
                self._facts[name] = len(rows)
        self._response_tokens = count_response_tokens(train_dataset)
        super().__init__(model, args, data_collator, train_dataset, eval_dataset, processing_class, **kwargs)
        self.draft_ids = draft_ids
        if self.is_fsdp_enabled and (draft_ids is not None or args.lora_rank):
            raise InputError(
                "a draft vocabulary or an adapter cannot be trained with FSDP: a drafter is small, launch with DDP"
            )
        if draft_ids is not None:
            prune_head(self.model, draft_ids)
            self.draft_ids = draft_ids.to(self.args.device)

    @property
    def facts(self) -> dict[str, Any]:
        """What was counted: rows, draft vocabulary with its coverage, and tokens of completions that were read."""
        setup = setup_of(self.model)
        before = setup.training.get("finetune", {}).get("finetuning_tokens", 0) if setup else 0
        return self._facts | {"finetuning_tokens": round(self._response_tokens * (self.state.epoch or 0)) + before}

    def _choose_draft_ids(
        self, given: int | tuple[int, ...], rows: Any, vocabulary: int, tokenizer: PreTrainedTokenizerBase | None
    ) -> torch.Tensor:
        if not isinstance(given, int):
            return torch.tensor(given)
        counts = count_ids(rows["response_ids"], vocabulary)
        draft_ids = choose_ids(counts, given, tokenizer.all_special_ids if tokenizer else (), fill=True)
        self._facts |= {"draft_vocabulary": len(draft_ids), "coverage": coverage(draft_ids, counts)}
        return draft_ids

    def share_out(self, rows: datasets.Dataset) -> Dataset:
        """Group rows by tokens where `args.per_device_train_tokens` says so; see the base class."""
        arguments = self.args
        if not arguments.per_device_train_tokens:
            return super().share_out(rows)
        nothing, rows = self.unsupervised(rows[0]), with_lengths(rows)
        tokens, seed = arguments.per_device_train_tokens, arguments.seed
        return GroupedRows(rows, arguments.max_length, tokens, seed, arguments.world_size, nothing)

    def unsupervised(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a prompt without a completion; see the base class."""
        return row | {"response_ids": []}

    def prepare(self, inputs: dict[str, torch.Tensor], training: bool) -> dict[str, Any]:
        """Read behind the target's keys and values; see the base class."""
        return self._sharing.prepare(inputs, training)

    def token_losses(self, logits: torch.Tensor, tokens: dict[str, torch.Tensor]) -> torch.Tensor:
        """Compute the loss of `args.loss_type`; see the base class."""
        if self.args.loss_type == cross_entropy.__name__:
            return cross_entropy(logits, self._place(tokens["labels"]))
        if "topk_ids" not in tokens:
            raise _lacks_topk(self.args.loss_type)
        return TOPK_LOSSES[self.args.loss_type](logits, self._place(tokens["topk_ids"]), tokens["topk_logprobs"])

    def _place(self, ids: torch.Tensor) -> torch.Tensor:
        return ids if self.draft_ids is None else map_ids(ids, self.draft_ids)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the drafter; see the base class. A LoRA adapter is merged, and stands in `adapter/` too."""
        if _internal_call or not is_adapter(self.model):
            super().save_model(output_dir, _internal_call)
            return
        adapted, folder = self.model, Path(output_dir or self.args.output_dir)
        if self.args.should_save:
            adapted.save_pretrained(folder / ADAPTER)
            self.model = merged_copy(adapted)
        try:
            super().save_model(output_dir)
        finally:
            self.model = adapted

    def _files(self) -> dict[str, bytes]:
        return {} if self.draft_ids is None else {VOCABULARY: vocabulary_bytes(self.draft_ids.cpu())}

    def _training_record(self) -> dict[str, Any]:
        facts = describe_training(self.model, self.args) | self.facts | self.record | self._evaluated()
        record = {"finetune": facts}
        return ({"distill": self.rows.record} if isinstance(self.rows, Rows) else {}) | record

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
        prepare = partial(self.prepare, training=False)
        acceptance = evaluate_acceptance(self.model, dataloader, self.accelerator, self.draft_ids, prepare)
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in acceptance.items()})
        return output


def _knows_topk(rows: Any) -> bool:
    """Tell whether rows have the target's top k; of datasets that only batches tell about, assume it."""
    return not isinstance(rows, datasets.Dataset | Sequence | dict) or has_topk(rows)


def _check_topk(args: DrafterTrainingArguments, rows: Any) -> None:
    if args.loss_type in TOPK_LOSSES and not _knows_topk(rows):
        raise _lacks_topk(args.loss_type)


def _lacks_topk(loss_type: str) -> InputError:
    return InputError(
        f"loss_type {loss_type} compares with the target's log-probabilities, which some rows lack: {SCORE_THEM}"
    )


def _with_known_metric(args: DrafterTrainingArguments, rows: Any) -> DrafterTrainingArguments:
    """Return arguments that choose the best checkpoint by the loss where the rows do not tell the acceptance."""
    if args.metric_for_best_model not in ("expected_alpha", "greedy_agreement") or _knows_topk(rows):
        return args
    _logger.warning(
        "held-out rows lack log-probabilities: the best checkpoint is chosen by their loss, not by %s; %s",
        args.metric_for_best_model,
        SCORE_THEM.partition(";")[0],
    )
    args = copy.copy(args)
    args.metric_for_best_model, args.greater_is_better = "loss", False
    return args
