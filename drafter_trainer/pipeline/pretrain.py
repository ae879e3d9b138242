"""Pretrain a drafter on packed text and conversations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import set_seed

from drafter_trainer.corpora.reading import describe_corpus
from drafter_trainer.drafters.initialization import create_drafter
from drafter_trainer.languages import get_pair
from drafter_trainer.runs import Step
from drafter_trainer.targets import Target
from drafter_trainer.training.arguments import PretrainingArguments
from drafter_trainer.training.base import train_to_end
from drafter_trainer.training.packing import pack_corpora
from drafter_trainer.training.trainers import PretrainingTrainer


def pretrain(
    target: Target,
    corpora: Sequence[str],
    arguments: PretrainingArguments,
    *,
    languages: str,
    shape: Mapping[str, Any],
    max_samples: int | None = None,
    max_validation_samples: int | None = None,
    evaluation_questions: Sequence[str] = (),
    settings: Mapping[str, Any],
) -> None:
    """Pack corpora, and train a new drafter on them; a finished step is not repeated.

    Args:
        settings (`Mapping[str, Any]`): Recorded settings, by which the finished step is recognized.
    Raises:
        InputError: If the folder holds a drafter of other settings, or a corpus cannot be read.
    """
    state, folder = PartialState(), Path(arguments.output_dir)
    read = [describe_corpus(name) for name in corpora]
    inputs = {"target": target.identity} | dict(zip(corpora, map(str, read)))
    step = Step(folder, "pretrain", settings, inputs, state.is_main_process)
    if step.is_finished():
        return
    with step:
        splits = {}
        for split, limit in (("train", max_samples), ("validation", max_validation_samples)):
            with state.main_process_first():
                splits[split] = pack_corpora(
                    corpora,
                    target,
                    folder / "packed",
                    arguments.max_length,
                    max(1, arguments.dataloader_num_workers),
                    pair=get_pair(languages),
                    split=split,
                    limit=limit,
                    questions=tuple(evaluation_questions),
                )
        set_seed(arguments.seed)  # random weights are the same in every run
        trainer = PretrainingTrainer(
            model=create_drafter(target, **shape, languages=languages),
            args=arguments,
            train_dataset=splits["train"][0],
            eval_dataset=splits["validation"][0],
            processing_class=target.load_tokenizer(),
        )
        trainer.record = {split: facts for split, (_, facts) in splits.items()} | {"corpora": read}
        step.facts |= trainer.record | train_to_end(trainer)
