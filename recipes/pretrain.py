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
"""Pretrain a drafter on packed text and conversations.

    accelerate launch recipes/pretrain.py --config recipes/configs/gemma-3-270m/de-en.yaml

Leaves RUN_FOLDER/pretrain: the drafter, and under packed/ the rows that it read. Interrupted, it goes on from its
last checkpoint.
"""

from pathlib import Path

from accelerate import PartialState
from transformers import set_seed

from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.cli.launch import report_step, run_recipe
from drafter_trainer.corpora import describe_corpus
from drafter_trainer.drafters.initialization import create_drafter
from drafter_trainer.languages import get_pair
from drafter_trainer.runs import Step, finished_step
from drafter_trainer.training.base import train_to_end
from drafter_trainer.training.packing import Packing, load_packed, pack_corpora, rows_folder
from drafter_trainer.training.trainers import PretrainingTrainer


def main(argv: list[str]) -> None:
    (run, where, corpora, shape, training), given = parse_arguments("pretrain", argv, __doc__)
    pair = get_pair(run.pair)
    state = PartialState()
    target = where.resolve()
    folder = Path(training.output_dir or run.folder / "pretrain")
    training.output_dir = str(folder)
    inputs = {"target": target.identity}
    read = []
    for name in corpora.corpus:
        if (written := rows_folder(name)) is not None:
            advice = "run distill.py with --corpus start_token first"
            inputs[name] = finished_step(written, advice)["fingerprint"]
            read.append({"name": "written by the target from its start token"})
        else:
            read.append(describe_corpus(name))
            inputs[name] = str(read[-1])
    step = Step(folder, "pretrain", given, inputs, state.is_main_process)
    if step.is_finished():
        return report_step(step, reused=True)

    tokenizer = target.load_tokenizer()
    with step:
        splits = {}
        for split, limit in (("train", corpora.max_samples), ("validation", corpora.max_validation_samples)):
            questions = tuple(corpora.evaluation_questions)
            packing = Packing(
                tuple(corpora.corpus),
                pair,
                split,
                target,
                questions,
                limit,
                training.max_length,
                corpora.skips_bad_rows,
            )
            with state.main_process_first():
                shards = pack_corpora(packing, folder / "packed", training.packing_workers)
            splits[split] = load_packed(shards)
        set_seed(training.seed)  # weights that are drawn are drawn alike in every run
        drafter = create_drafter(target, **shape.options(), languages=run.pair)
        trainer = PretrainingTrainer(
            model=drafter,
            args=training,
            train_dataset=splits["train"].rows,
            eval_dataset=splits["validation"].rows,
            processing_class=tokenizer,
        )
        trainer.record = {split: packed.facts for split, packed in splits.items()} | {"corpora": read}
        step.facts |= trainer.record | train_to_end(trainer)
    report_step(step)


if __name__ == "__main__":
    run_recipe(main)
