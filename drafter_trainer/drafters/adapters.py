"""LoRA adapters: one base drafter, and a few weights for each language (Hu et al., arXiv 2106.09685)."""

import copy
import warnings
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from drafter_trainer.errors import InputError, one_line
from drafter_trainer.extras import require

ADAPTER = "adapter"  # subfolder of a drafter with a merged adapter, for the adapter itself
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def add_adapter(model: PreTrainedModel, rank: int, alpha: float = 32.0) -> Any:
    """Freeze a drafter in place, and add an adapter, scaled by alpha / rank, to each matrix of its layers."""
    peft = require("peft", "lora")
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    return peft.get_peft_model(model, config)


def is_adapter(model: Any) -> bool:
    """Return whether a drafter has an adapter."""
    return hasattr(model, "peft_config") and hasattr(model, "merge_and_unload")


def merged_copy(model: Any) -> PreTrainedModel:
    """Return a copy of a drafter with its adapter merged, a stock model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about a pruned head, which is saved as it was before
        merged = copy.deepcopy(model).merge_and_unload()
    merged.config.tie_word_embeddings = model.config.tie_word_embeddings
    return merged


def merge_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Merge the adapter in a folder into a base drafter, in place."""
    peft = require("peft", "lora")
    try:
        return peft.PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except RuntimeError as error:  # sizes that do not fit
        reason = one_line(error)
        raise InputError(f"the adapter in {folder} has another base drafter ({reason}): name that drafter") from error
