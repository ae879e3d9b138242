"""Adapt a published drafter to a finetuned or quantized version of its target."""

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
from accelerate import PartialState
from transformers import PreTrainedModel

from drafter_trainer.drafters.compact import COMPACT
from drafter_trainer.drafters.initialization import create_drafter
from drafter_trainer.drafters.loop.build import VOCABULARY, read_vocabulary
from drafter_trainer.drafters.loop.sources import NETWORK
from drafter_trainer.drafters.repository import Repository
from drafter_trainer.errors import InputError
from drafter_trainer.pipeline.distill import distill
from drafter_trainer.pipeline.tune import TuningResult, tune
from drafter_trainer.runs import Step, finished_step
from drafter_trainer.targets import Target, as_target
from drafter_trainer.training.arguments import DrafterTrainingArguments
from drafter_trainer.training.base import describe_training, train_to_end
from drafter_trainer.training.trainers import DrafterTrainer

# A low learning rate, since the drafter is trained already.
TRAINING = {"loss_type": "topk_kl", "learning_rate": 3e-5, "num_train_epochs": 1.0}


def adapt(
    drafter: str | Path,
    target: str | Target | PreTrainedModel,
    prompts: Any,
    output_dir: str | Path,
    *,
    temperatures: Sequence[float] = (0.0, 0.7),
    max_prompts: int | None = None,
    max_new_tokens: int = 1024,
    batch_size: int = 32,
    evaluation_questions: Sequence[str] = (),
    exclude: Iterable[str] = (),
    arguments: DrafterTrainingArguments | None = None,
    dtype: str = "auto",
) -> TuningResult:
    """Adapt a published drafter to another version of its target: distill the target, finetune the drafter, tune it.

    A finetuned or quantized target, or a target with a merged adapter, generates other completions than the original,
    and accepts fewer drafted tokens. The same call resumes after an interruption.

    Args:
        drafter (`str` or `Path`): Hub id or folder of the published drafter.
        target (`str`, `Target` or `PreTrainedModel`): The new target, with the same tokenizer.
        prompts: As for `distill`.
        output_dir (`str` or `Path`): Folder of `rows` (the completions) and `drafter` (the folder for `publish`).
        temperatures, max_prompts, max_new_tokens, batch_size, evaluation_questions, exclude, dtype: As for `distill`.
        arguments (`DrafterTrainingArguments`, *optional*): Training arguments; defaults to one epoch at a learning
            rate of 3e-5. Their `prompt_window` is replaced by the drafter's, and their `output_dir` by `drafter`.
    Returns:
        `TuningResult`: The folder of the adapted drafter, and its expected speedup.
    Raises:
        InputError: If the drafter has no network, is a LoRA adapter, or has another tokenizer than the target.
    """
    folder, published = Path(output_dir), Repository.open(drafter)
    description = published.description
    if NETWORK not in description.loop["sources"]:
        raise InputError(f"{drafter} has no network to train: call tune() on completions of the target instead")
    if description.adapter_of:
        raise InputError(
            f"{drafter} is an adapter: adapt {description.adapter_of['drafter']}, or publish it without adapter_of"
        )
    source = Path(drafter)
    if published.commit is not None:
        source = Path(huggingface_hub.snapshot_download(published.name, revision=published.commit))
    target = as_target(target)
    languages = description.pair or list(description.languages)
    rows = distill(
        target,
        prompts,
        output_dir=folder / "rows",
        temperatures=temperatures,
        max_new_tokens=max_new_tokens,
        languages=languages,
        max_prompts=max_prompts,
        evaluation_questions=evaluation_questions,
        exclude=exclude,
        batch_size=batch_size,
        dtype=dtype,
    )
    vocabulary = source / VOCABULARY
    ids = read_vocabulary(vocabulary, target.load_config().get_text_config().vocab_size) if vocabulary.is_file() else 0
    # A compact repository takes embeddings and head from the target, so they must not change.
    compact = (source / COMPACT).is_file()
    network = create_drafter(
        target, str(source), draft_vocabulary=ids, freeze_embeddings=compact, languages=languages or None
    )
    arguments = copy.copy(arguments) if arguments else DrafterTrainingArguments(**TRAINING)
    arguments.output_dir = str(folder / "drafter")
    arguments.prompt_window = getattr(network.config, "prompt_window", None) or 0
    inputs = {
        "target": target.identity,
        "drafter": description.fingerprint(),
        "rows": finished_step(rows.path, "distill first")["fingerprint"],
    }
    # With this record, training never resumes from a checkpoint of other arguments, other rows or another drafter.
    settings, is_main = describe_training(network, arguments), PartialState().is_main_process
    step = Step(folder / "drafter", "adapt", settings, inputs, is_main)
    if not step.is_finished():
        with step:
            step.facts |= train_to_end(DrafterTrainer(network, arguments, train_dataset=rows))
    return tune(folder / "drafter", rows, target, dtype=dtype)
