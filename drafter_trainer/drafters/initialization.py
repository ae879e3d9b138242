"""The weights that a drafter starts from."""

import copy
from collections.abc import Sequence

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from drafter_trainer.arguments import DrafterArguments
from drafter_trainer.drafters.compatibility import check_tokenizers
from drafter_trainer.drafters.configuration import draft_config
from drafter_trainer.errors import InputError
from drafter_trainer.targets import Target

_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
_WIDTHS = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")


def initialise_drafter(
    arguments: DrafterArguments, target: Target, tokenizer: PreTrainedTokenizerBase, probes: Sequence[str]
) -> PreTrainedModel:
    """Make the drafter that the arguments describe, in fp32.

    Args:
        arguments (`DrafterArguments`): Its `initialization` names the way, or an existing checkpoint.
        target (`Target`): Its weights are loaded only where they are used.
        tokenizer (`PreTrainedTokenizerBase`): The target's.
        probes (`Sequence[str]`): Texts in the drafter's languages, for comparing tokenizers.
    Raises:
        InputError: If the way does not fit the target, or the checkpoint cannot be used.
    """
    target_config = AutoConfig.from_pretrained(target.path, revision=target.hub_revision).get_text_config()
    if arguments.initialization not in ("scratch", "embeddings", "layers"):
        drafter = from_checkpoint(arguments.initialization, target_config, tokenizer, probes)
    else:
        config = draft_config(target_config, **arguments.widths())
        match arguments.initialization:
            case "embeddings":
                drafter = from_target_embeddings(config, target.load_model("float32"))
            case "layers":
                drafter = from_target_layers(config, target.load_model("float32"), arguments.initial_layers)
            case _:
                drafter = from_scratch(config)
    if arguments.freeze_embeddings:
        drafter.get_input_embeddings().requires_grad_(False)
        drafter.get_output_embeddings().requires_grad_(False)
    return drafter


def from_scratch(config: PretrainedConfig) -> PreTrainedModel:
    """Make a drafter with random weights, in fp32."""
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def from_target_embeddings(config: PretrainedConfig, target_model: PreTrainedModel) -> PreTrainedModel:
    """Make a drafter with the target's embeddings and head, and random layers between them.

    Raises:
        InputError: If the drafter is not as wide as the target.
    """
    _check_widths(config, target_model, "embeddings", ("hidden_size",))
    drafter = from_scratch(config)
    with torch.no_grad():
        drafter.get_input_embeddings().weight.copy_(target_model.get_input_embeddings().weight)
        drafter.get_output_embeddings().weight.copy_(target_model.get_output_embeddings().weight)
    return drafter


def from_target_layers(
    config: PretrainedConfig, target_model: PreTrainedModel, layers: Sequence[int]
) -> PreTrainedModel:
    """Make a drafter out of some of the target's layers, with its embeddings, last norm and head.

    Args:
        layers (`Sequence[int]`): Which layers, from 0; negative ones count from the end.
    Raises:
        InputError: If their number is not the drafter's depth, one does not exist, or the widths differ.
    """
    depth = target_model.config.num_hidden_layers
    if len(layers) != config.num_hidden_layers:
        raise InputError(
            f"initial_layers names {len(layers)} layers {list(layers)}, the drafter has {config.num_hidden_layers}"
        )
    if any(not -depth <= layer < depth for layer in layers):
        raise InputError(f"initial_layers {list(layers)}: the target has layers 0 to {depth - 1}")
    # Heads too: another number of them can leave every shape as it is, and cut the target's heads up in silence.
    _check_widths(config, target_model, "layers", _WIDTHS)
    chosen = [layer % depth for layer in layers]
    if kinds := getattr(target_model.config, "layer_types", None):
        config = copy.deepcopy(config)
        config.layer_types = [kinds[layer] for layer in chosen]
    drafter = from_scratch(config)
    weights = {}
    for name, weight in target_model.state_dict().items():
        prefix, found, rest = name.partition(".layers.")
        if not found:
            weights[name] = weight
            continue
        number, _, rest = rest.partition(".")
        for position in (place for place, layer in enumerate(chosen) if layer == int(number)):
            weights[f"{prefix}.layers.{position}.{rest}"] = weight
    drafter.load_state_dict(weights)
    return drafter


def from_checkpoint(
    checkpoint: str,
    target_config: PretrainedConfig,
    target_tokenizer: PreTrainedTokenizerBase,
    probes: Sequence[str],
) -> PreTrainedModel:
    """Load an existing drafter, such as Vicuna 68M or one that was pretrained here, in fp32.

    Its special ids become the target's: public checkpoints are known to state others than their tokenizer has.

    Args:
        checkpoint (`str`): Folder or Hub id.
        probes (`Sequence[str]`): Texts in the drafter's languages.
    Raises:
        IncompatibleTokenizerError: If its tokenizer is not the target's.
        InputError: If it cannot be read, or its vocabulary has another size.
    """
    try:
        drafter = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    except (OSError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{checkpoint} is neither a folder nor a Hub model that can be loaded with its tokenizer: {reason}"
        ) from error
    check_tokenizers(target_tokenizer, tokenizer, probes)
    if drafter.config.vocab_size != target_config.vocab_size:
        raise InputError(
            f"{checkpoint} has a vocabulary of {drafter.config.vocab_size}, the target one of "
            f"{target_config.vocab_size}: start from a checkpoint of the same size"
        )
    for name in _SPECIAL:
        setattr(drafter.config, name, getattr(target_config, name, None))
        setattr(drafter.generation_config, name, getattr(target_config, name, None))
    return drafter


def _check_widths(config: PretrainedConfig, target_model: PreTrainedModel, what: str, names: Sequence[str]) -> None:
    for name in names:
        own, expected = getattr(config, name, None), getattr(target_model.config, name, None)
        if own != expected:
            raise InputError(
                f"initialization from the target's {what} needs its {name} of {expected}, got {own}: leave {name} "
                f"out, or start from scratch"
            )
