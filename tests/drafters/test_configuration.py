"""The shape that a drafter takes from its target."""

import copy

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    PretrainedConfig,
    Qwen3Config,
)

from drafter_trainer.drafters.configuration import draft_config
from drafter_trainer.errors import InputError

SMALL = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 8}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "bos_token_id": 3, "eos_token_id": 4}
SMALL |= {"pad_token_id": 5}
FAMILIES = [LlamaConfig, GemmaConfig, Qwen3Config, Gemma3TextConfig]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layers", [1, 2, 7, 8])
def test_drafter_is_the_target_with_fewer_layers(family: type[PretrainedConfig], layers: int) -> None:
    """Other ids make a drafter useless, and lists shared with the target would shrink the target."""
    target_config = family(**SMALL)
    before, types = copy.deepcopy(target_config.to_dict()), getattr(target_config, "layer_types", None)
    config = draft_config(target_config, layers)
    assert (type(config), config.num_hidden_layers) == (family, layers)
    for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "hidden_size"):
        assert getattr(config, name) == getattr(target_config, name), name
    if types:
        assert config.layer_types == types[:layers]
    model = AutoModelForCausalLM.from_config(config)
    assert len(model.model.layers) == layers
    assert model(input_ids=torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, 50)
    narrow = draft_config(target_config, layers, hidden_size=16, intermediate_size=24)
    for each in (config, narrow):
        each.rope_parameters["marked"] = 1
        if types:
            each.layer_types[0] = "marked"
    assert target_config.to_dict() == before


def test_other_heads_divide_the_width_among_them() -> None:
    """The target's head width under another number of heads would give attention of an unforeseen size."""
    target_config = LlamaConfig(**SMALL)
    assert draft_config(target_config, 1, num_attention_heads=2).head_dim == 16
    assert draft_config(target_config, 1, hidden_size=64, num_attention_heads=8).head_dim == 8
    assert draft_config(target_config, 1, num_attention_heads=2, head_dim=12).head_dim == 12
    assert draft_config(target_config, 1).head_dim == target_config.head_dim


@pytest.mark.parametrize(
    ("family", "widths", "named"),
    [
        # Refused by nobody before the first pass, which fails over shapes of matrices.
        (LlamaConfig, {"num_attention_heads": 1}, "num_attention_heads 1 is no multiple of num_key_value_heads 2"),
        (LlamaConfig, {"num_key_value_heads": 3}, "num_attention_heads 4 is no multiple of num_key_value_heads 3"),
        (LlamaConfig, {"num_attention_heads": 6}, "not a multiple of the number of attention heads"),
        (Qwen3Config, {"num_hidden_layers": 9}, "num_hidden_layers 9"),
        (Gemma3TextConfig, {"num_hidden_layers": 9}, "num_hidden_layers 9"),
    ],
)
def test_impossible_shape_is_refused(family: type[PretrainedConfig], widths: dict[str, int], named: str) -> None:
    """A shape that no model of the family has must end in a line that names it, not in a traceback."""
    with pytest.raises(InputError, match=named):
        draft_config(family(**SMALL), **{"num_hidden_layers": 2, **widths})
