"""Finetune a drafter on the target's completions."""

import dataclasses
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import set_seed

from drafter_trainer.atomic import whole_folder
from drafter_trainer.drafters.adapters import ADAPTER
from drafter_trainer.drafters.description import FILE_NAME
from drafter_trainer.drafters.initialization import LAYERS, create_drafter, setup_of
from drafter_trainer.drafters.layer_search import search_layers
from drafter_trainer.errors import InputError
from drafter_trainer.hub.assemble import assemble
from drafter_trainer.pipeline.publish import describe
from drafter_trainer.provenance import without_folders
from drafter_trainer.runs import Run, Step, finished_step, read_step
from drafter_trainer.targets import Target
from drafter_trainer.training.arguments import DrafterTrainingArguments
from drafter_trainer.training.base import train_to_end
from drafter_trainer.training.losses import TOPK_LOSSES
from drafter_trainer.training.rows import describe_rows, load_rows
from drafter_trainer.training.trainers import DrafterTrainer

_logger = logging.getLogger(__name__)
_SEARCHED = 24  # rows that layers are searched on
PRETRAINED = "pretrain"  # as initialization: the run's pretrained drafter


def finetune(
    run: Run,
    target: Target,
    rows: Sequence[Path],
    arguments: DrafterTrainingArguments,
    shape: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> None:
    """Train a new drafter on rows, and copy it to `run.published`; a finished step is not repeated.

    Args:
        rows (`Sequence[Path]`): Folders of rows, read together; if empty, the folder of the run's own distillation.
        shape (`Mapping[str, Any]`): Options of `create_drafter`; its `initialization` may also be "pretrain". With
            "layers" and no numbers, `search_layers` finds the best layers of the target on the rows.
        settings (`Mapping[str, Any]`): Recorded settings, by which the finished step is recognized.
    Raises:
        InputError: If rows or the drafter that training starts from are not finished, or the folder holds a drafter
            of other settings.
    """
    folders, start, state = [*rows] or [run.rows], shape["initialization"], PartialState()
    if arguments.lora_rank and start in ("scratch", "embeddings", "layers"):
        raise InputError(
            f"an adapter (lora_rank {arguments.lora_rank}) needs a base drafter: name it as initialization"
        )
    known = [finished_step(folder, "distill first, or name other folders as data") for folder in folders]
    inputs = {"target": target.identity, "rows": " ".join(step["fingerprint"] for step in known)}
    if start == PRETRAINED:
        advice = "pretrain first, or choose as initialization scratch, embeddings, layers or a checkpoint"
        inputs["pretrained"] = finished_step(run.pretrained, advice)["fingerprint"]
        start = str(run.pretrained)
    elif read_step(Path(start)) is not None:
        inputs["initialization"] = finished_step(Path(start), "let it finish first")["fingerprint"]
    folder = Path(arguments.output_dir)
    step = Step(folder, "finetune", settings, inputs, state.is_main_process)
    copied = state.is_main_process and folder == run.finetuned

    def publish_copy() -> None:
        with whole_folder(run.published) as copy:
            copy_drafter(folder, copy, run, target)

    if step.is_finished():
        if copied and not (run.published / FILE_NAME).is_file():
            publish_copy()
        return
    with step:
        train = load_rows([path / "train" for path in folders], target, arguments.loss_type in TOPK_LOSSES)
        held_out = load_rows([path / "validation" for path in folders], target)
        if start == "layers" and not shape.get("layers"):
            shape = shape | {"layers": _best_layers(target, train, shape["num_hidden_layers"] or LAYERS, arguments)}
            step.facts["initial_layers"] = shape["layers"]
        set_seed(arguments.seed)  # random weights are the same in every run
        drafter = create_drafter(target, **(shape | {"initialization": start}), languages=run.languages)
        setup_of(drafter).training.update(describe_rows(folders))
        trainer = DrafterTrainer(drafter, arguments, train_dataset=train, eval_dataset=held_out)
        chosen = {"initial_layers": shape.get("layers"), "freeze_embeddings": shape.get("freeze_embeddings")}
        trainer.record = {name: value for name, value in chosen.items() if value}
        trainer.record["initialization"] = without_folders(shape["initialization"])
        metrics = train_to_end(trainer)
        step.facts |= trainer.facts | metrics
        if copied:
            publish_copy()


def copy_drafter(trained: Path, folder: Path, run: Run, target: Target) -> None:
    """Copy a trainer's drafter, under the run's name and with weights as they are published.

    The weights are rounded to the dtype of the target's checkpoint, so that tuning and benchmarks measure the
    published drafter.
    """
    description = describe(trained, target, run.name, run.languages)
    assemble(trained, dataclasses.replace(description, target=target.name), target, folder)
    if (trained / ADAPTER).is_dir():  # for `publish(adapter_of=...)`
        shutil.copytree(trained / ADAPTER, folder / ADAPTER)


def _best_layers(target: Target, rows: Dataset, number: int, arguments: DrafterTrainingArguments) -> list[int]:
    limit = _SEARCHED if torch.accelerator.is_available() else _SEARCHED // 3  # a CPU needs minutes
    chosen = rows.shuffle(arguments.seed).select(range(min(limit, len(rows))))
    _logger.info(
        "searching the best %d layers of %s; an initialization such as layers:0,1 names them without a search",
        number,
        target.name,
    )
    model = target.load_model("auto", arguments.device)
    return search_layers(model, list(chosen), number, prompt_window=arguments.prompt_window or None)
