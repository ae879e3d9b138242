"""A drafter as a GGUF file, and the check that it is the same drafter.

llama.cpp keeps the rows of a Llama's query and key projections in another order than transformers: there the two
halves that a rotation pairs stand apart within each head, in GGUF side by side.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel

from drafter_trainer.errors import InputError
from drafter_trainer.hub.export.gguf_tokenizer import add_tokenizer, needs_converter

TOLERANCE = 1e-4  # of logits in float32, between the drafter with its weights rounded alike and the file
_FILE_TYPES = {
    "float32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "float16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bfloat16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
}
_RANDOM_IDS = 64
_LAYER = re.compile(r"layers\.(\d+)\.")


@dataclass(frozen=True)
class _Family:
    """How llama.cpp keeps the models of one architecture.

    Args:
        pairs_rows (`bool`): Whether the two rows that are rotated together lie side by side.
        adds_one (`bool`): Whether the weights of norms, which are stored less one, are kept whole.
    """

    architecture: gguf.MODEL_ARCH
    pairs_rows: bool = False
    adds_one: bool = False


_FAMILIES = {
    "llama": _Family(gguf.MODEL_ARCH.LLAMA, pairs_rows=True),
    "qwen3": _Family(gguf.MODEL_ARCH.QWEN3),
    "gemma3_text": _Family(gguf.MODEL_ARCH.GEMMA3, adds_one=True),
}


def write_gguf(folder: Path, dtype: str, path: Path, target_gguf: Path | None = None) -> None:
    """Write a drafter of the Llama, Qwen3 or Gemma 3 architecture as a GGUF file.

    Args:
        dtype (`str`): Of the matrices; norms stay in float32.
        target_gguf (`Path`, *optional*): The target's file, whose tokenizer is taken over; needed where the drafter's
            is no plain byte-level BPE, as Gemma's.
    Source: the keys and the order of rows are those of conversion/llama.py, qwen.py and gemma.py in llama.cpp
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = model.config
    _check_architecture(folder, config)
    family = _FAMILIES[config.model_type]
    gemma = config.model_type == "gemma3_text"
    period, places = _place_layers(config.layer_types) if gemma else (0, [*range(config.num_hidden_layers)])
    quantization, file_type = _FILE_TYPES[dtype]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[family.architecture])
    writer.add_type("model")
    writer.add_name(folder.name)
    writer.add_file_type(file_type)
    writer.add_block_count(places[-1] + 1)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    if gemma:
        writer.add_rope_freq_base(config.rope_parameters["full_attention"]["rope_theta"])
        writer.add_rope_freq_base_swa(config.rope_parameters["sliding_attention"]["rope_theta"])
        writer.add_sliding_window(config.sliding_window)
        writer.add_sliding_window_pattern(period)
    else:
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    add_tokenizer(writer, folder, config.vocab_size, target_gguf)
    names = gguf.get_tensor_name_map(family.architecture, places[-1] + 1)
    own = model.state_dict()
    weights = {_LAYER.sub(lambda of: f"layers.{places[int(of[1])]}.", name): weight for name, weight in own.items()}
    for place in {*range(places[-1])} - {*places}:
        for name, weight in own.items():
            if "layers.0." in name:
                filler = torch.full_like(weight, -1.0 if name.endswith("norm.weight") else 0.0)
                weights[name.replace("layers.0.", f"layers.{place}.")] = filler
    for name, weight in weights.items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue  # llama.cpp takes the embeddings where there is no head
        if family.pairs_rows and name.endswith("q_proj.weight"):
            weight = _pair_rotated_rows(weight, config.num_attention_heads)
        elif family.pairs_rows and name.endswith("k_proj.weight"):
            weight = _pair_rotated_rows(weight, config.num_key_value_heads)
        elif family.adds_one and name.endswith("norm.weight"):
            weight = weight + 1
        kind = quantization if weight.ndim > 1 else gguf.GGMLQuantizationType.F32
        data = gguf.quants.quantize(weight.numpy(), kind)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _check_architecture(folder: Path, config) -> None:
    if config.model_type not in _FAMILIES:
        raise needs_converter(folder, f"of the architecture {config.model_type}")
    called = {"llama": "a Llama", "qwen3": "a Qwen3", "gemma3_text": "a Gemma 3"}[config.model_type]
    rope = config.rope_parameters
    kinds = {kind["rope_type"] for kind in ([rope] if "rope_type" in rope else rope.values())}
    if config.attention_bias or getattr(config, "mlp_bias", False):
        raise needs_converter(folder, f"{called} with biases")
    if kinds != {"default"}:
        raise needs_converter(folder, f"{called} with {min(kinds - {'default'})} positions")
    if getattr(config, "use_sliding_window", False):
        raise needs_converter(folder, f"{called} with a sliding window")
    if config.model_type == "gemma3_text" and config.query_pre_attn_scalar != config.head_dim:
        # llama.cpp scales by the width of a head, except in the 27B model, which it knows by its size.
        raise needs_converter(folder, f"a Gemma 3 whose queries are scaled by {config.query_pre_attn_scalar}")


def _place_layers(layer_types: Sequence[str]) -> tuple[int, list[int]]:
    """Place a Gemma 3's layers in a file in which every p-th layer, and no other, sees the whole text.

    llama.cpp knows no other order, and layers that were chosen from a target's often have one. The places between
    them are filled with layers that add nothing: the weights of their last norms are zero.

    Returns:
        `tuple[int, list[int]]`: p, with the fewest layers in all, and the place of each layer.
    """
    placed = []
    for period in range(len(layer_types) + 1, 0, -1):
        place, places = 0, []
        for kind in layer_types:
            if period == 1 and kind != "full_attention":
                break
            while ((place + 1) % period == 0) != (kind == "full_attention"):
                place += 1
            places.append(place)
            place += 1
        else:
            placed.append((period, places))
    return min(placed, key=lambda each: each[1][-1])


def _pair_rotated_rows(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Put the two rows that are rotated together side by side, within each head.

    Args:
        weight (`torch.Tensor` of shape `(heads * head_dim, hidden)`): Of a query or key projection.
    """
    halves = weight.reshape(heads, 2, -1, weight.shape[1])
    return halves.transpose(1, 2).reshape(weight.shape).contiguous()


def check_gguf(folder: Path, path: Path, dtype: str, probes: tuple[str, ...]) -> tuple[float, float]:
    """Load a GGUF file back and compare it with its drafter: ids of the probes, and all logits at each of them.

    Returns:
        `tuple[float, float]`, the largest difference of a logit: from the drafter with its matrices rounded to
        `dtype`, which must be nothing but the order of additions, and from the drafter itself, which is what rounding
        costs.
    """
    place = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    try:
        config = AutoConfig.from_pretrained(**place)
        if config.model_type == "gemma3_text":  # transformers (5.23) reads neither from the file
            period = gguf.GGUFReader(path).get_field("gemma3.attention.sliding_window_pattern").contents()
            kinds = ("full_attention" if layer % period == 0 else "sliding_attention" for layer in itertools.count(1))
            config.layer_types = [*itertools.islice(kinds, config.num_hidden_layers)]
            config.query_pre_attn_scalar = config.head_dim
        loaded = AutoModelForCausalLM.from_pretrained(
            **place, config=config, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
        loaded_tokenizer = AutoTokenizer.from_pretrained(**place)
    except (ValueError, NotImplementedError) as error:
        raise InputError(f"{path} cannot be loaded back: {' '.join(str(error).split())}") from error
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for probe in probes:
        ids, found = (each.encode(probe, add_special_tokens=False) for each in (tokenizer, loaded_tokenizer))
        if ids != found:
            raise InputError(f"{path} gives {probe!r} the ids {found}, the drafter {ids}: it has another tokenizer")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.tensor([tokenizer.encode(probe, add_special_tokens=False)]) for probe in probes]
    inputs.append(torch.randint(len(tokenizer), (1, _RANDOM_IDS), generator=generator))
    from_itself = _largest_difference(model, loaded, inputs)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.copy_(weight.to(getattr(torch, dtype)))
    from_rounded = _largest_difference(model, loaded, inputs)
    if not from_rounded <= TOLERANCE:  # also where it is no number
        raise InputError(
            f"{path} gives other logits than the drafter, by up to {from_rounded:.3g}: do not use it, and report it"
        )
    return from_rounded, from_itself


@torch.no_grad()
def _largest_difference(model: PreTrainedModel, other: PreTrainedModel, inputs: list[torch.Tensor]) -> float:
    differences = [(model(ids).logits - other(ids).logits).abs().max() for ids in inputs]
    return float(torch.stack(differences).max())
