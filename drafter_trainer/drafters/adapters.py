"""LoRA adapters: one base drafter, and for each language a few weights beside it (Hu et al., arXiv 2106.09685)."""

from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from drafter_trainer.errors import InputError

ADAPTER = "adapter"  # folder of an adapter, beside the drafter that it is merged into
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def add_adapter(model: PreTrainedModel, rank: int, alpha: float) -> PeftModel:
    """Freeze a drafter and put an adapter beside each matrix of its layers.

    Args:
        model (`PreTrainedModel`): The base drafter; changed in place.
        rank (`int`): Of the adapter's matrices.
        alpha (`float`): The adapter's product is scaled by alpha / rank.
    """
    return get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    )


def merge_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Add an adapter to a base drafter's weights.

    Args:
        model (`PreTrainedModel`): The base drafter; changed in place.
        folder (`Path`): Of the adapter, as peft saves it.
    Returns:
        `PreTrainedModel`, a stock model.
    Raises:
        InputError: If the adapter is of a drafter of another shape.
    """
    try:
        return PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except RuntimeError as error:  # sizes that do not fit
        reason = " ".join(str(error).split())
        raise InputError(f"the adapter in {folder} is of another drafter ({reason}): name its own base") from error
