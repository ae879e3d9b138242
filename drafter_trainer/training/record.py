"""What a trainer leaves beside the weights: the drafting loop, and a record of the training for the card."""

import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from drafter_trainer.drafters.initialization import setup_of
from drafter_trainer.drafters.loop.repository import TABLE, VOCABULARY
from drafter_trainer.drafters.saving import TUNING, complete_folder, describe_drafter, size_of
from drafter_trainer.provenance import without_folders

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


def describe_training(model: PreTrainedModel, args: TrainingArguments) -> dict[str, Any]:
    """Describe how a drafter is trained: what it started from, and the arguments that decide the result."""
    setup = setup_of(model)
    start = {"initialization": without_folders(setup.initialization)} if setup else {}
    values = {name: getattr(args, name) for name in _RECORDED if hasattr(args, name)}
    return (
        start
        | {"num_hidden_layers": model.config.num_hidden_layers}
        | {name: value for name, value in values.items() if value not in (0, -1)}
    )


def save_with_loop(
    model: PreTrainedModel,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase | None,
    files: Mapping[str, bytes],
    training: dict[str, Any],
) -> None:
    """Put a drafter's tokenizer, drafting loop and `drafter.json` beside its weights.

    Args:
        files (`Mapping[str, bytes]`): What the loop reads besides.
    """
    setup = setup_of(model)
    if setup is None or tokenizer is None:
        _logger.warning(
            "%s has a stock model without its drafting loop, since it is not known which target it is for: make "
            "drafters with create_drafter, or name the target to publish()",
            folder,
        )
        return
    spoken = "-".join(language.code for language in setup.languages)
    name = "-".join(filter(None, (re.split("[/:]", setup.target.name)[-1], "drafter", str(setup.pair or spoken))))
    known = {"training": setup.training | training, "size": size_of(model)}
    description = describe_drafter(name, setup.target, setup.languages, setup.pair, **known)
    # What an earlier tuning left was found for other weights.
    shutil.rmtree(folder / TUNING, ignore_errors=True)
    for stale in {VOCABULARY, TABLE} - files.keys():
        (folder / stale).unlink(missing_ok=True)
    complete_folder(folder, description, tokenizer, files)
