"""The shape of a drafter: its target's architecture, smaller."""

from transformers import PretrainedConfig


def draft_config(
    target_config: PretrainedConfig,
    num_hidden_layers: int,
    hidden_size: int | None = None,
    intermediate_size: int | None = None,
    num_attention_heads: int | None = None,
    num_key_value_heads: int | None = None,
    head_dim: int | None = None,
) -> PretrainedConfig:
    """Derive a drafter's configuration from its target's.

    What is not given stays as in the target: family, vocabulary, special ids, positions. So the drafter is a stock
    model that every engine loads.

    Args:
        target_config (`PretrainedConfig`): Of the target.
        num_hidden_layers (`int`): Depth.
        hidden_size, intermediate_size, num_attention_heads, num_key_value_heads, head_dim (`int`, *optional*):
            Width, where it differs from the target's.
    """
    values = target_config.to_dict()
    values["num_hidden_layers"] = num_hidden_layers
    if values.get("layer_types"):
        values["layer_types"] = values["layer_types"][:num_hidden_layers]
    widths = {
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_attention_heads": num_attention_heads,
        "num_key_value_heads": num_key_value_heads,
        "head_dim": head_dim,
    }
    if num_attention_heads is not None and head_dim is None and "head_dim" in values:
        values["head_dim"] = (hidden_size or target_config.hidden_size) // num_attention_heads
    values.update({key: value for key, value in widths.items() if value is not None})
    return type(target_config).from_dict(values)
