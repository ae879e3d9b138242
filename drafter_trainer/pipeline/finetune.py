"""Finetune a drafter on the target's completions."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import set_seed

from drafter_trainer.drafters.initialization import LAYERS, create_drafter
from drafter_trainer.drafters.layer_search import search_layers
from drafter_trainer.errors import InputError
from drafter_trainer.runs import Run, Step, finished_step, read_step
from drafter_trainer.targets import Target
from drafter_trainer.training.arguments import DrafterTrainingArguments
from drafter_trainer.training.base import train_to_end
from drafter_trainer.training.losses import TOPK_LOSSES
from drafter_trainer.training.rows import load_split
from drafter_trainer.training.trainers import DrafterTrainer

_logger = logging.getLogger(__name__)
_SEARCHED = 24  # rows that layers are searched on
PRETRAINED = "pretrain"  # as initialization: the drafter that the run's own pretraining left


def finetune(
    run: Run,
    target: Target,
    rows: Sequence[Path],
    arguments: DrafterTrainingArguments,
    shape: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> None:
    """Train a new drafter on rows; finished before with the same settings, nothing is done.

    Args:
        rows (`Sequence[Path]`): Folders of rows, taken together; those of the run's own distillation if empty.
        shape (`Mapping[str, Any]`): Options of `create_drafter`; its `initialization` may also be "pretrain". Of the
            target's layers, where none are named, `search_layers` finds the best on the rows.
        settings (`Mapping[str, Any]`): What the step records, by which it is known again.
    Raises:
        InputError: If rows or the drafter that training starts from are not finished, or the folder holds a drafter
            of other settings.
    """
    folders, start, state = [*rows] or [run.rows], shape["initialization"], PartialState()
    if arguments.lora_rank and start in ("scratch", "embeddings", "layers"):
        raise InputError(
            f"an adapter (lora_rank {arguments.lora_rank}) needs a base drafter: name one as initialization"
        )
    known = [finished_step(folder, "distill first, or name other folders as data") for folder in folders]
    inputs = {"target": target.identity, "rows": " ".join(step["fingerprint"] for step in known)}
    if start == PRETRAINED:
        advice = "pretrain first, or choose as initialization scratch, embeddings, layers or a checkpoint"
        inputs["pretrained"] = finished_step(run.pretrained, advice)["fingerprint"]
        start = str(run.pretrained)
    elif read_step(Path(start)) is not None:
        inputs["initialization"] = finished_step(Path(start), "let it finish first")["fingerprint"]
    step = Step(Path(arguments.output_dir), "finetune", settings, inputs, state.is_main_process)
    if step.is_finished():
        return
    with step:
        train = load_split(folders, "train", target, arguments.loss_type in TOPK_LOSSES)
        held_out = load_split(folders, "validation", target, None)
        if start == "layers" and not shape.get("layers"):
            shape = shape | {"layers": _best_layers(target, train, shape["num_hidden_layers"] or LAYERS, arguments)}
            step.facts["initial_layers"] = shape["layers"]
        set_seed(arguments.seed)  # weights that are drawn are drawn alike in every run
        drafter = create_drafter(target, **(shape | {"initialization": start}), languages=run.languages)
        trainer = DrafterTrainer(drafter, arguments, train_dataset=train, eval_dataset=held_out)
        metrics = train_to_end(trainer)
        step.facts |= trainer.facts | metrics


def _best_layers(target: Target, rows: Dataset, number: int, arguments: DrafterTrainingArguments) -> list[int]:
    limit = _SEARCHED if torch.accelerator.is_available() else _SEARCHED // 3  # which take a processor minutes
    chosen = rows.shuffle(arguments.seed).select(range(min(limit, len(rows))))
    _logger.info(
        "searching the best %d layers of %s; an initialization such as layers:0,1 names them without a search",
        number,
        target.name,
    )
    model = target.load_model("auto", arguments.device)
    return search_layers(model, list(chosen), number, prompt_window=arguments.prompt_window or None)
