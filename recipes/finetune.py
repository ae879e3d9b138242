# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["drafter_trainer==0.1.0"]
#
# [[tool.uv.index]]
# name = "wheels"
# url = "/wheels"
# format = "flat"
# explicit = true
#
# [tool.uv.sources]
# drafter_trainer = { index = "wheels" }
#
# [tool.hf-jobs]
# secrets = ["HF_TOKEN"]
# volumes = ["dist:/wheels"]
# ///
"""Finetune a drafter on the target's own answers, keep the checkpoint that the target accepts most of, publish it.

    accelerate launch recipes/finetune.py --config recipes/configs/gemma-3-270m/de-en.yaml

Reads RUN_FOLDER/distill (or the folders of --data), leaves RUN_FOLDER/finetune, and ends by publishing as publish.py
does, unless --publish false. Interrupted, it goes on from its last checkpoint.
"""

from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import set_seed

from drafter_trainer.cli.arguments import DrafterArguments
from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.cli.launch import leave_processes, report_step, run_recipe
from drafter_trainer.drafters.initialization import create_drafter
from drafter_trainer.errors import InputError
from drafter_trainer.hub.publish import check_destination, publish_run
from drafter_trainer.languages import Pair, get_pair
from drafter_trainer.runs import FILE_NAME, Step, finished_step
from drafter_trainer.targets import Target
from drafter_trainer.training.arguments import DrafterTrainingArguments
from drafter_trainer.training.base import train_to_end
from drafter_trainer.training.losses import TOPK_LOSSES
from drafter_trainer.training.rows import load_split
from drafter_trainer.training.trainers import DrafterTrainer


def main(argv: list[str]) -> None:
    (run, where, data, shape, training, publishing), given = parse_arguments("finetune", argv, __doc__)
    pair = get_pair(run.pair)
    state = PartialState()
    if data.publish and state.is_main_process:
        check_destination(publishing.to)
    target = where.resolve()
    folder = Path(training.output_dir or run.folder / "finetune")
    training.output_dir = str(folder)
    folders = [Path(folder) for folder in data.data] or [run.folder / "distill"]
    advice = "run distill.py first, or give --data FOLDER"
    if training.lora_rank and shape.initialization in ("scratch", "embeddings", "layers"):
        raise InputError(
            f"an adapter (lora_rank {training.lora_rank}) needs a base drafter: name one with --initialization"
        )
    inputs = {
        "target": target.identity,
        "rows": " ".join(finished_step(rows, advice)["fingerprint"] for rows in folders),
    }
    if shape.initialization == "pretrain":
        shape.initialization = str(run.folder / "pretrain")
        advice = "run pretrain.py first, or give --initialization scratch, embeddings, layers or a checkpoint"
        inputs["pretrained"] = finished_step(run.folder / "pretrain", advice)["fingerprint"]
    elif (Path(shape.initialization) / FILE_NAME).is_file():
        inputs["initialization"] = finished_step(Path(shape.initialization), "let it finish first")["fingerprint"]
    step = Step(folder, "finetune", given, inputs, state.is_main_process)
    if step.is_finished():
        report_step(step, reused=True)
    else:
        with step:
            step.facts |= train(folder, folders, data.max_train_samples, target, pair, shape, training)
        report_step(step)
    leave_processes()  # the others would wait for the first one's upload only to give up in the midst of a long one
    if data.publish and state.is_main_process:
        print(publish_run(run, target, where.dtype, publishing))


def train(
    folder: Path,
    data: list[Path],
    limit: int | None,
    target: Target,
    pair: Pair,
    shape: DrafterArguments,
    training: DrafterTrainingArguments,
) -> dict[str, Any]:
    """Train a drafter on self-distilled rows, leave it in a folder, and return the facts of the step."""
    rows = {
        "train": load_split(data, "train", target, training.loss_type in TOPK_LOSSES),
        "validation": load_split(data, "validation", target, None),
    }
    if limit is not None and limit < len(rows["train"]):
        # Shards are sorted by the lengths of the prompts: the first rows would be the short ones.
        rows["train"] = rows["train"].shuffle(training.seed).select(range(limit))
    set_seed(training.seed)  # weights that are drawn are drawn alike in every run
    drafter = create_drafter(target, **shape.options(), languages=str(pair))
    trainer = DrafterTrainer(drafter, training, train_dataset=rows["train"], eval_dataset=rows["validation"])
    metrics = train_to_end(trainer)
    return trainer.facts | metrics


if __name__ == "__main__":
    run_recipe(main)
