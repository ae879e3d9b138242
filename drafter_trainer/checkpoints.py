"""Models that generate text, whichever of transformers' automatic classes loads them."""

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from drafter_trainer.errors import InputError


def model_class_of(config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    """Return the class that generates text with a configuration, `None` where there is none.

    Some multimodal families, such as Mistral 3, are no causal language models to transformers' automatic classes.
    """
    kind = type(config)
    return MODEL_FOR_CAUSAL_LM_MAPPING.get(kind, None) or MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(kind, None)


def check_assistable(config: PreTrainedConfig, name: str) -> None:
    """Refuse a target that assisted decoding cannot help, by its configuration alone."""
    model_class = model_class_of(config)
    if config.is_encoder_decoder or model_class is None:
        raise InputError(f"{name} is no decoder-only language model ({config.model_type}): name one")
    if model_class._is_stateful:
        raise InputError(
            f"{name} keeps a recurrent state ({config.model_type}), which cannot be taken back when a draft is "
            "rejected: generate() takes no drafter for it; name a model whose layers are all attention"
        )


def load_checkpoint(path: str, revision: str | None, dtype: str | torch.dtype) -> PreTrainedModel:
    """Load a model that generates text, multimodal ones whole."""
    config = AutoConfig.from_pretrained(path, revision=revision)
    model_class = model_class_of(config)
    if model_class is None:
        raise ValueError(f"a model of type {config.model_type} does not generate text")
    return model_class.from_pretrained(path, revision=revision, dtype=dtype)
