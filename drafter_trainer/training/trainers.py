"""The two trainers: pretraining on packed text, and finetuning on the target's completions."""

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from drafter_trainer.decoding.metrics import expected_alpha, greedy_agreement
from drafter_trainer.drafters.adapters import ADAPTER, add_adapter, is_adapter, merged_copy
from drafter_trainer.drafters.initialization import setup_of
from drafter_trainer.drafters.loop.build import VOCABULARY
from drafter_trainer.drafters.vocabulary import choose_ids, count_ids, coverage, map_ids, prune_head, vocabulary_bytes
from drafter_trainer.errors import InputError
from drafter_trainer.training.arguments import DrafterTrainingArguments, PretrainingArguments
from drafter_trainer.training.base import TokenMeanTrainer, own_arguments, tokenizer_of
from drafter_trainer.training.collators import SelfDistilledCollator, collate_packed
from drafter_trainer.training.kv_sharing import KeySharing
from drafter_trainer.training.losses import TOPK_LOSSES, cross_entropy
from drafter_trainer.training.packing import pack_texts
from drafter_trainer.training.rows import (
    SCORE_THEM,
    GroupedRows,
    Rows,
    count_response_tokens,
    fill_up,
    lacks_topk,
    prepare_rows,
    read_rows,
)

_logger = logging.getLogger(__name__)


class PretrainingTrainer(TokenMeanTrainer):
    """A trainer that pretrains a drafter on text with cross-entropy.

    Args:
        model (`PreTrainedModel`): A drafter, for instance from `create_drafter`.
        args (`TrainingArguments`, *optional*): `PretrainingArguments` or plain `TrainingArguments`.
        train_dataset, eval_dataset (`datasets.Dataset`, *optional*): Rows of `text` or `messages`, which the trainer
            tokenizes and packs, or packed rows of `input_ids` (see `collate_packed`).
        kwargs (`Any`): As for `Trainer`.
    """

    step_name = "pretrain"

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
        args, setup = own_arguments(args, PretrainingArguments), setup_of(model)
        train_dataset, eval_dataset = (
            pack_texts(rows, setup and setup.target, args.max_length) for rows in (train_dataset, eval_dataset)
        )
        if isinstance(train_dataset, datasets.Dataset):
            row = train_dataset[0]
            train_dataset = fill_up(train_dataset, args, row | {"input_ids": [-1] * len(row["input_ids"])})
        super().__init__(
            model,
            args,
            data_collator=data_collator or collate_packed,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class or tokenizer_of(model),
            **kwargs,
        )


class DrafterTrainer(TokenMeanTrainer):
    """A trainer that finetunes a drafter on self-distilled rows and evaluates its acceptance on held-out rows.

    The loss is chosen by `args.loss_type`. Evaluation reports `eval_greedy_agreement` and `eval_expected_alpha`; both
    can be the `metric_for_best_model`. If rows have no top-k log-probabilities, evaluation reports only
    `eval_accuracy`, the share of tokens that the drafter predicts.

    Args:
        model (`PreTrainedModel`): A drafter, for instance from `create_drafter`.
        args (`TrainingArguments`, *optional*): `DrafterTrainingArguments` or plain `TrainingArguments`.
        train_dataset (`Rows`, `str`, `Path` or `datasets.Dataset`, *optional*): Result of `distill`, its folder, or a
            dataset with `prompt_ids` and `completion_ids`, and optionally `topk_ids` and `topk_logprobs`.
        eval_dataset (`datasets.Dataset`, *optional*): Held-out rows; defaults to the validation rows of `distill`.
        draft_ids (`torch.Tensor` of shape `(draft vocabulary,)`, *optional*): The draft vocabulary: logits are
            computed only for these ids. Defaults to the draft vocabulary of `args` or of the drafter.
        kwargs (`Any`): As for `Trainer`.
    Raises:
        InputError: If the rows lack columns that the loss needs, or belong to another target.
    """

    step_name = "finetune"
    _figures: torch.Tensor | None = None  # five sums for each row of the batch that is being evaluated

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
        args, setup = own_arguments(args, DrafterTrainingArguments), setup_of(model)
        train_dataset, held_out, self.rows = read_rows(train_dataset, setup and setup.target)
        eval_dataset = held_out if eval_dataset is None else prepare_rows(eval_dataset)
        processing_class = processing_class or tokenizer_of(model)
        if args.loss_type in TOPK_LOSSES and lacks_topk(train_dataset):
            raise _lacks_topk(args.loss_type)
        args, facts = _with_known_metric(args, eval_dataset), {}
        model.config.prompt_window = args.prompt_window or None
        self._sharing = KeySharing(model, args, setup and setup.target)
        if draft_ids is None and (size := args.draft_vocabulary or (setup.draft_vocabulary if setup else 0)):
            if isinstance(size, int):
                counts = count_ids(train_dataset["response_ids"], model.config.vocab_size)
                special = processing_class.all_special_ids if processing_class else ()
                draft_ids = choose_ids(counts, size, special, fill=True)
                facts |= {"draft_vocabulary": len(draft_ids), "coverage": coverage(draft_ids, counts)}
            else:
                draft_ids = torch.tensor(size)
        if args.lora_rank and not is_adapter(model):
            model = add_adapter(model, args.lora_rank)
        if data_collator is None:
            pad_id = processing_class.pad_token_id if processing_class else None
            window = 0 if self._sharing.layers else args.prompt_window
            data_collator = SelfDistilledCollator(pad_id or 0, self._sharing.max_length, window)
        if self._sharing.layers:
            facts["kv_sharing_layers"] = self._sharing.layers
        for name, rows in (("train_rows", train_dataset), ("validation_rows", eval_dataset)):
            if hasattr(rows, "__len__"):
                facts[name] = len(rows)
        self._response_tokens = count_response_tokens(train_dataset)
        if isinstance(train_dataset, datasets.Dataset):
            filler = train_dataset[0] | {"response_ids": []}
            group = GroupedRows if args.per_device_train_tokens else fill_up
            train_dataset = group(train_dataset, args, filler)
        elif args.per_device_train_tokens and train_dataset is not None:
            raise InputError(
                "per_device_train_tokens needs a datasets.Dataset as train_dataset: give one, or leave it out"
            )
        super().__init__(
            model,
            args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        self._facts, self.draft_ids = facts, draft_ids
        if self.is_fsdp_enabled and (draft_ids is not None or args.lora_rank):
            raise InputError(
                "a draft vocabulary or a LoRA adapter cannot be trained with FSDP: use DDP, since a drafter is small"
            )
        if draft_ids is not None:
            prune_head(self.model, draft_ids)
            self.draft_ids = draft_ids.to(self.args.device)

    @property
    def facts(self) -> dict[str, Any]:
        """Numbers of rows, size and coverage of the draft vocabulary, and number of completion tokens trained on."""
        setup = setup_of(self.model)
        before = setup.training.get("finetune", {}).get("finetuning_tokens", 0) if setup else 0
        return self._facts | {"finetuning_tokens": round(self._response_tokens * (self.state.epoch or 0)) + before}

    def prepare(self, inputs: dict[str, torch.Tensor], training: bool) -> dict[str, Any]:
        """Add the target's keys and values to the batch, if the drafter attends to them; see the base class."""
        return self._sharing.prepare(inputs, training)

    def token_losses(self, logits: torch.Tensor, tokens: dict[str, torch.Tensor]) -> torch.Tensor:
        """Compute the loss of `args.loss_type`; see the base class."""
        if self.draft_ids is not None:
            ids = {name: map_ids(tokens[name], self.draft_ids) for name in ("labels", "topk_ids") if name in tokens}
            tokens = tokens | ids
        if self._figures is not None:
            self._count(logits, tokens)
        if self.args.loss_type == cross_entropy.__name__:
            return cross_entropy(logits, tokens["labels"])
        if "topk_ids" not in tokens:
            raise _lacks_topk(self.args.loss_type)
        return TOPK_LOSSES[self.args.loss_type](logits, tokens["topk_ids"], tokens["topk_logprobs"])

    def _count(self, logits: torch.Tensor, tokens: dict[str, torch.Tensor]) -> None:
        """Add five figures of each token to its row: 1, correct, has a top k, agreement, expected acceptance."""
        right = (logits.argmax(dim=-1) == tokens["labels"]).float()
        figures = [torch.ones_like(right), right]
        if "topk_ids" in tokens:
            topk_ids, logprobs = tokens["topk_ids"], tokens["topk_logprobs"]
            agreement, alpha = greedy_agreement(logits, topk_ids).float(), expected_alpha(logits, topk_ids, logprobs)
            figures += [torch.ones_like(right), agreement, alpha]
        self._figures[:, : len(figures)].index_add_(0, tokens["rows"], torch.stack(figures, dim=1))

    def prediction_step(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any
    ) -> tuple[Any, Any, Any]:
        """Compute the loss of a batch of held-out rows, and count the tokens that the target would accept."""
        self._figures = torch.zeros(len(inputs["labels"]), 5, device=self.args.device)
        try:
            output = super().prediction_step(model, inputs, *args, **kwargs)
            # Summed by row, since gather_for_metrics drops the rows that the last batch repeats on several processes.
            self._sums += self.accelerator.gather_for_metrics(self._figures).double().sum(dim=0).cpu()
        finally:
            self._figures = None
        return output

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluate the loss, as the base class does, and the acceptance."""
        self._sums = torch.zeros(5, dtype=torch.float64)
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        supervised, right, compared, agreement, alpha = self._sums.tolist()
        if not supervised:
            raise InputError(
                "held-out rows have no supervised token, since their prompts fill max_length: give a larger max_length"
            )
        figures = {"accuracy": right / supervised}
        if compared:
            figures = {"greedy_agreement": agreement / compared, "expected_alpha": alpha / compared}
        figures["supervised_tokens"] = supervised
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in figures.items()})
        return output

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the drafter as a stock model. A LoRA adapter is merged into it, and also saved in `adapter/`."""
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

    def loop_files(self) -> dict[str, bytes]:
        """Return the draft vocabulary; see the base class."""
        return {} if self.draft_ids is None else {VOCABULARY: vocabulary_bytes(self.draft_ids.cpu())}

    def training_record(self) -> dict[str, Any]:
        """Return the records of distillation and training; see the base class."""
        record = super().training_record()
        record[self.step_name] |= self.facts
        return ({"distill": self.rows.record} if isinstance(self.rows, Rows) else {}) | record


def _lacks_topk(loss_type: str) -> InputError:
    return InputError(
        f"loss_type {loss_type} needs the target's log-probabilities, which some rows lack: {SCORE_THEM}"
    )


def _with_known_metric(args: DrafterTrainingArguments, rows: Any) -> DrafterTrainingArguments:
    """Choose the best checkpoint by the loss if the rows lack the log-probabilities that the acceptance needs."""
    if args.metric_for_best_model not in ("expected_alpha", "greedy_agreement") or not lacks_topk(rows):
        return args
    _logger.warning(
        "held-out rows lack log-probabilities: the best checkpoint is chosen by the loss instead of %s; %s",
        args.metric_for_best_model,
        SCORE_THEM.partition(";")[0],
    )
    args = copy.copy(args)
    args.metric_for_best_model, args.greater_is_better = "loss", False
    return args
