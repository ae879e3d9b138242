"""LoRA adapters: one base drafter, and for each language a few weights beside it (Hu et al., arXiv 2106.09685)."""

import copy
import warnings
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from drafter_trainer.errors import InputError, one_line
from drafter_trainer.extras import require

ADAPTER = "adapter"  # folder of an adapter, beside the drafter that it is merged into
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def add_adapter(model: PreTrainedModel, rank: int, alpha: float = 32.0) -> Any:
    """Freeze a drafter and put an adapter beside each matrix of its layers.

    Args:
        model (`PreTrainedModel`): The base drafter; changed in place.
        alpha (`float`, *optional*, defaults to `32.0`): The adapter's product is scaled by alpha / rank.
    """
    peft = require("peft", "lora")
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    return peft.get_peft_model(model, config)


def is_adapter(model: Any) -> bool:
    """Tell whether a drafter has an adapter."""
    return hasattr(model, "peft_config") and hasattr(model, "merge_and_unload")


def merged_copy(model: Any) -> PreTrainedModel:
    """Return a copy of a drafter with an adapter as a stock model; the adapter goes on being trained."""
    tied = model.config.tie_word_embeddings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a pruned head, which is saved as it was before
        merged = copy.deepcopy(model).merge_and_unload()
    merged.config.tie_word_embeddings = tied
    return merged


def merge_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Add an adapter to a base drafter's weights.

    Args:
        model (`PreTrainedModel`): The base drafter; changed in place.
    """
    peft = require("peft", "lora")
    try:
        return peft.PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except RuntimeError as error:  # sizes that do not fit
        reason = one_line(error)
        raise InputError(f"the adapter in {folder} is of another drafter ({reason}): name its own base") from error
