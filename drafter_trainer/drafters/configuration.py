"""The shape of a drafter: its target's architecture, smaller."""

from huggingface_hub.errors import StrictDataclassError
from transformers import PretrainedConfig

from drafter_trainer.errors import InputError, one_line

WIDTHS = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")


def draft_config(target_config: PretrainedConfig, num_hidden_layers: int, **widths: int) -> PretrainedConfig:
    """Derive a drafter's configuration from its target's.

    What is not given stays as in the target: family, vocabulary, special ids, positions. So the drafter is a stock
    model that every engine loads.

    Args:
        widths (`int`): Those of `WIDTHS` that differ from the target's.
    """
    if unknown := sorted(widths.keys() - {*WIDTHS}):
        raise InputError(f"a drafter may differ in {', '.join(WIDTHS)}, got {', '.join(unknown)}")
    values = target_config.to_dict()
    values.pop("_model_name_or_path", None)  # a GGUF file's name for the target
    values.pop("quantization_config", None)  # the drafter's own weights are trained
    values["num_hidden_layers"] = num_hidden_layers
    if "final_logit_softcapping" in values:
        values["final_logit_softcapping"] = None  # q need not be capped as p is, and a lean head does not do it
    if values.get("layer_types"):
        if num_hidden_layers > len(values["layer_types"]):
            raise InputError(
                f"num_hidden_layers {num_hidden_layers}: the target says what attention each of its "
                f"{len(values['layer_types'])} layers has, so the drafter can have no more than these"
            )
        values["layer_types"] = values["layer_types"][:num_hidden_layers]
    values |= widths
    if "num_attention_heads" in widths and "head_dim" in values and "head_dim" not in widths:
        values["head_dim"] = values["hidden_size"] // values["num_attention_heads"]
    heads, key_value_heads = values["num_attention_heads"], values.get("num_key_value_heads")
    # transformers accepts such a configuration and fails within the first pass.
    if key_value_heads and heads % key_value_heads:
        raise InputError(
            f"num_attention_heads {heads} is no multiple of num_key_value_heads {key_value_heads}: give both"
        )
    try:
        return type(target_config).from_dict(values)
    except StrictDataclassError as error:
        raise InputError(f"a drafter cannot have this shape ({one_line(error)}): give other widths") from error
