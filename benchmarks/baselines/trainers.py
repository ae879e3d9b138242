"""Train the heads of Medusa and the layer of EAGLE on a target's own completions, with a frozen target."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, Trainer, set_seed

from benchmarks.baselines import DESCRIPTION
from benchmarks.baselines.eagle import EagleLayer
from benchmarks.baselines.medusa import MedusaHeads
from benchmarks.baselines.reading import HiddenStateReader
from drafter_trainer.atomic import write_whole
from drafter_trainer.cli.arguments import RowsArguments, RunArguments, TargetArguments
from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.cli.launch import require_one_process
from drafter_trainer.drafters.loop.build import VOCABULARY
from drafter_trainer.drafters.vocabulary import choose_ids, count_ids, coverage, map_ids, vocabulary_bytes
from drafter_trainer.errors import InputError
from drafter_trainer.runs import Step, finished_step
from drafter_trainer.targets import Target
from drafter_trainer.training.arguments import PretrainingArguments
from drafter_trainer.training.base import train_to_end
from drafter_trainer.training.collators import IGNORED, SelfDistilledCollator
from drafter_trainer.training.head import logits_in_pieces, sum_losses
from drafter_trainer.training.losses import cross_entropy
from drafter_trainer.training.rows import load_rows

_HEADS = 3  # of Medusa; each head guesses one token further ahead
_RANKS = 8  # guesses of a depth whose accuracy is measured
_HEAD_DECAY = 0.8  # Medusa's λ: weight of a head relative to the previous one
_TOKEN_WEIGHT = 0.1  # EAGLE's weight of the token loss relative to the loss over hidden states


@dataclass
class BaselineTrainingArguments(PretrainingArguments):
    """Arguments of the trainers below: `TrainingArguments` with other defaults, and two more fields.

    Args:
        max_length (`int`): Longer rows lose the end of their completion.
        draft_vocabulary (`int`): Size of the draft vocabulary, as in finetuning; 0 for all ids.
    """

    output_dir: str | None = field(
        default="", metadata={"help": "Folder of checkpoints and weights (default: RUN_FOLDER/medusa or eagle)"}
    )
    max_length: int = field(
        default=2048, metadata={"help": "Maximum number of tokens of a row; longer rows lose their end"}
    )
    draft_vocabulary: int = field(
        default=0, metadata={"help": "Size of the draft vocabulary, the most frequent ids; 0 for all ids"}
    )
    per_device_train_batch_size: int = field(default=8, metadata={"help": "Number of rows in a device's batch"})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate"})
    include_num_input_tokens_seen: str = field(
        default="non_padding", metadata={"help": "Log how many tokens were read"}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Keep false: the target reads the rows"})
    prediction_loss_only: bool = field(default=True, metadata={"help": "Keep true: there is nothing to gather"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draft_vocabulary < 0:
            raise InputError(f"draft_vocabulary must be 0 or more, got {self.draft_vocabulary}")


OPTIONS = (RunArguments, TargetArguments, RowsArguments, BaselineTrainingArguments)


@dataclass(frozen=True)
class Guesses:
    """Predictions at a fixed distance after the target's own next token.

    Args:
        states (`torch.Tensor` of shape `(tokens, width)`): Predicted inputs of the target's head.
        labels (`torch.Tensor` of shape `(tokens,)`): The correct tokens.
        features (`torch.Tensor` of shape `(tokens, width)`): The target's own hidden states at these positions.
    """

    states: torch.Tensor
    labels: torch.Tensor
    features: torch.Tensor


class BaselineTrainer(Trainer):
    """A trainer of a module that predicts from a frozen target's hidden states, which are computed in each step.

    Args:
        target_model (`PreTrainedModel`): The target, on the trainer's device.
        draft_ids (`torch.Tensor` of shape `(draft vocabulary,)`): Ids of the predictions, ascending.
    """

    # The loss below is already divided by the tokens of all accumulated batches.
    loss_is_scaled_for_ga = True

    def __init__(self, *args: Any, target_model: PreTrainedModel, draft_ids: torch.Tensor, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True
        self.label_names = ["labels"]  # otherwise nothing is evaluated: the Trainer looks for labels in `forward`
        self.target_model = target_model.eval().requires_grad_(False)
        self._reader = HiddenStateReader(self.target_model)
        self.draft_ids = draft_ids.to(self.args.device)
        weight = target_model.get_output_embeddings().weight[self.draft_ids].float()
        self.head = torch.nn.Linear(*reversed(weight.shape), bias=False, device="meta")
        self.head.weight = torch.nn.Parameter(weight, requires_grad=False)

    def guess(self, model: torch.nn.Module, batch: dict[str, torch.Tensor], hidden: torch.Tensor) -> list[Guesses]:
        """Return predictions; each entry of the list is one token further ahead.

        Args:
            hidden (`torch.Tensor` of shape `(batch, length, width)`): Input of the target's head, in fp32.
        """
        raise NotImplementedError

    def sum_of_losses(self, ahead: int, guesses: Guesses) -> torch.Tensor:
        """Sum the losses of predictions.

        Args:
            ahead (`int`): Distance after the target's own next token.
        """
        raise NotImplementedError

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Sum the losses of all predictions, divided by the completion tokens of the whole batch."""
        hidden = self._reader.read(inputs["input_ids"], inputs["attention_mask"])
        guesses = self.guess(model, inputs, hidden)
        count = (inputs["labels"] != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        total = sum(self.sum_of_losses(ahead, each) for ahead, each in enumerate(guesses, 1))
        loss = total / torch.as_tensor(count).clamp(min=1)
        return (loss, ()) if return_outputs else loss

    @torch.no_grad()
    def rank_accuracies(self) -> list[list[float]]:
        """Measure the accuracy of the predictions of each rank on the held-out rows.

        Returns:
            `list` with a list for each depth, best rank first, as `grow_tree` takes them.
        """
        self.model.eval()
        counts: list[np.ndarray] = []
        tokens: list[int] = []
        for batch in self.get_eval_dataloader():
            batch = self._prepare_inputs(batch)
            hidden = self._reader.read(batch["input_ids"], batch["attention_mask"])
            for depth, guesses in enumerate(self.guess(self.model, batch, hidden)):
                if depth == len(counts):
                    counts.append(np.zeros(_RANKS, dtype=np.int64))
                    tokens.append(0)
                places = map_ids(guesses.labels, self.draft_ids)
                for place, logits in logits_in_pieces(guesses.states, self.head):
                    chosen = places[place].clamp(min=0)[:, None]
                    ranks = (logits > logits.gather(1, chosen)).sum(dim=1)[places[place] >= 0]
                    counts[depth] += np.bincount(ranks[ranks < _RANKS].cpu().numpy(), minlength=_RANKS)
                tokens[depth] += len(guesses.labels)
        return [(count / max(total, 1)).round(4).tolist() for count, total in zip(counts, tokens)]


def place_guesses(states: torch.Tensor, hidden: torch.Tensor, labels: torch.Tensor, ahead: int) -> Guesses:
    """Select the predictions that decoding would make within a completion, with the correct tokens.

    Args:
        states (`torch.Tensor` of shape `(batch, length or less, width)`): Predictions from each position.
        hidden (`torch.Tensor` of shape `(batch, length, width)`): Input of the target's head.
        labels (`torch.Tensor` of shape `(batch, length)`): Tokens, ignored outside of the completion.
        ahead (`int`): Distance after the target's own next token.
    """
    end = labels.shape[1] - 1 - ahead
    inside = (labels[:, 1 : end + 1] != IGNORED) & (labels[:, 1 + ahead :] != IGNORED)
    return Guesses(states[:, :end][inside], labels[:, 1 + ahead :][inside], hidden[:, ahead : ahead + end][inside])


class MedusaTrainer(BaselineTrainer):
    """A trainer of Medusa heads by cross-entropy; each head has 0.8 times the previous weight (arXiv 2401.10774)."""

    def guess(self, model: torch.nn.Module, batch: dict[str, torch.Tensor], hidden: torch.Tensor) -> list[Guesses]:
        """Predict with each head; see the base class."""
        return [place_guesses(states, hidden, batch["labels"], ahead) for ahead, states in enumerate(model(hidden), 1)]

    def sum_of_losses(self, ahead: int, guesses: Guesses) -> torch.Tensor:
        """Sum the cross-entropy; see the base class."""
        labels = map_ids(guesses.labels, self.draft_ids)
        losses = sum_losses(guesses.states, self.head, lambda logits, place: cross_entropy(logits, labels[place]))
        return _HEAD_DECAY**ahead * losses


class EagleTrainer(BaselineTrainer):
    """A trainer of an EAGLE layer by smooth L1 of hidden states and cross-entropy of tokens (arXiv 2401.15077).

    In training, noise is added to the input hidden states, because in drafting they are the layer's own predictions.
    """

    def guess(self, model: torch.nn.Module, batch: dict[str, torch.Tensor], hidden: torch.Tensor) -> list[Guesses]:
        """Predict from the target's hidden states; see the base class."""
        features = hidden[:, :-1]
        if model.training:
            features = features + torch.empty_like(features).uniform_(-0.1, 0.1)
        embeddings = self.target_model.get_input_embeddings()(batch["input_ids"][:, 1:]).float()
        states = model(embeddings, features, attention_mask=batch["attention_mask"][:, 1:], use_cache=False)
        return [place_guesses(states, hidden, batch["labels"], 1)]

    def sum_of_losses(self, ahead: int, guesses: Guesses) -> torch.Tensor:
        """Sum both losses; see the base class."""

        def over_tokens(logits: torch.Tensor, place: slice) -> torch.Tensor:
            p = F.linear(guesses.features[place], self.head.weight).softmax(dim=-1)
            return -(p * logits.log_softmax(dim=-1)).sum(dim=-1)

        over_states = F.smooth_l1_loss(guesses.states, guesses.features, reduction="none").mean(dim=-1).sum()
        return over_states + _TOKEN_WEIGHT * sum_losses(guesses.states, self.head, over_tokens)


_BASELINES = {
    "medusa": (MedusaTrainer, lambda config: MedusaHeads(_HEADS, config.hidden_size), {"heads": _HEADS}),
    "eagle": (EagleTrainer, EagleLayer, {}),
}


def train_baseline(
    baseline: str,
    target: Target,
    folders: Sequence[Path],
    training: BaselineTrainingArguments,
    settings: dict[str, Any],
    dtype: str = "auto",
) -> Step:
    """Train a baseline as a step: write its weights, draft vocabulary and description to `training.output_dir`.

    Args:
        baseline (`str`): "medusa" or "eagle", which is also the name of the step.
        folders (`Sequence[Path]`): Folders of rows, written by distillation.
        training (`BaselineTrainingArguments`): Arguments of the training, with its folder.
    Returns:
        `Step`: The step, with its facts.
    """
    trainer_class, make_model, description = _BASELINES[baseline]
    inputs = " ".join(finished_step(folder, "distill first, or name other rows")["fingerprint"] for folder in folders)
    step = Step(Path(training.output_dir), baseline, settings, {"target": target.identity, "rows": inputs})
    if step.is_finished():
        return step
    with step:
        target_model, tokenizer = target.load_model(dtype, training.device), target.load_tokenizer()
        config, folder = target_model.config.get_text_config(), Path(training.output_dir)
        set_seed(training.seed)  # random weights are the same in every run
        model = make_model(config)
        rows = {
            split: load_rows([folder / split for folder in folders], target, topk=False)
            for split in ("train", "validation")
        }
        counts = count_ids(rows["train"]["response_ids"], config.vocab_size)
        draft_ids = torch.arange(config.vocab_size)
        if training.draft_vocabulary:
            draft_ids = choose_ids(counts, training.draft_vocabulary, tokenizer.all_special_ids, fill=True)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / VOCABULARY, vocabulary_bytes(draft_ids))
        trainer = trainer_class(
            model=model,
            args=training,
            target_model=target_model,
            draft_ids=draft_ids,
            train_dataset=rows["train"],
            eval_dataset=rows["validation"],
            data_collator=SelfDistilledCollator(tokenizer.pad_token_id, training.max_length),
        )
        step.facts |= {f"{split}_rows": len(found) for split, found in rows.items()}
        step.facts |= {"draft_vocabulary": len(draft_ids), "coverage": coverage(draft_ids, counts)}
        step.facts |= train_to_end(trainer)
        accuracies = trainer.rank_accuracies()
        said = {"baseline": baseline, "target": target.identity, "rank_accuracies": accuracies} | description
        text = json.dumps(said, indent=2) + "\n"
        write_whole(folder / DESCRIPTION, text)
        step.facts["accuracy_by_depth"] = [ranks[0] for ranks in accuracies]
    return step


def main(baseline: str, argv: list[str], description: str) -> None:
    """Run the recipe that trains a baseline."""
    (named, where, data, training), given = parse_arguments(baseline, argv, description, OPTIONS)
    require_one_process("a baseline is trained")
    training.output_dir = training.output_dir or str(named.run.folder / baseline)
    rows = [Path(folder) for folder in data.data] or [named.run.rows]
    train_baseline(baseline, where.resolve(), rows, training, given, where.dtype)
