"""Write a drafter as a GGUF file, and check that the file gives the same token ids and logits.

llama.cpp and transformers store the rows of a Llama's query and key projections in different orders: in llama.cpp the
two rows that are rotated together are adjacent, in transformers they are half a head apart.
"""

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path

import gguf
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedConfig, PreTrainedModel
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from drafter_trainer.errors import InputError, one_line

TOLERANCE = 1e-4  # of logits in float32, between the file and the drafter with weights rounded in the same way
_FILE_TYPES = {
    "float32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "float16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bfloat16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
}
_ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
}
_RANDOM_IDS = 64
_LAYER = re.compile(r"layers\.(\d+)\.")


def write_gguf(folder: Path, dtype: str, path: Path, target_gguf: Path | None = None) -> None:
    """Write a drafter of the Llama, Qwen3 or Gemma 3 architecture as a GGUF file.

    Args:
        dtype (`str`): Dtype of the matrices; norms stay in float32.
        target_gguf (`Path`, *optional*): GGUF file of the target, from which the tokenizer is copied; needed if the
            drafter's tokenizer is not a plain byte-level BPE, such as Gemma's.
    Source: the keys and the order of rows are those of conversion/llama.py, qwen.py and gemma.py in llama.cpp
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = model.config
    _check_architecture(folder, config)
    architecture, gemma = _ARCHITECTURES[config.model_type], config.model_type == "gemma3_text"
    period, places = _place_layers(config.layer_types) if gemma else (0, [*range(config.num_hidden_layers)])
    quantization, file_type = _FILE_TYPES[dtype]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
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
    if target_gguf is None:
        _write_tokenizer(writer, folder, config.vocab_size)
    else:
        _copy_tokenizer(writer, folder, config.vocab_size, target_gguf)
    names = gguf.get_tensor_name_map(architecture, places[-1] + 1)
    heads = {"q_proj.weight": config.num_attention_heads, "k_proj.weight": config.num_key_value_heads}
    for name, weight in _placed_weights(model, places).items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue  # llama.cpp uses the embeddings if there is no head
        if config.model_type == "llama" and (suffix := name.rpartition("self_attn.")[2]) in heads:
            weight = _pair_rotated_rows(weight, heads[suffix])
        elif gemma and name.endswith("norm.weight"):
            weight = weight + 1  # transformers stores these weights minus one
        kind = quantization if weight.ndim > 1 else gguf.GGMLQuantizationType.F32
        data = gguf.quants.quantize(weight.numpy(), kind)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _check_architecture(folder: Path, config: PreTrainedConfig) -> None:
    if config.model_type not in _ARCHITECTURES:
        raise _needs_converter(folder, f"the architecture {config.model_type}")
    rope, name = config.rope_parameters, config.model_type.removesuffix("_text").capitalize()
    kinds = {kind["rope_type"] for kind in ([rope] if "rope_type" in rope else rope.values())} - {"default"}
    if config.attention_bias or getattr(config, "mlp_bias", False):
        raise _needs_converter(folder, f"{name} with biases")
    if kinds:
        raise _needs_converter(folder, f"{name} with {min(kinds)} positions")
    if getattr(config, "use_sliding_window", False):
        raise _needs_converter(folder, f"{name} with a sliding window")
    if config.model_type == "gemma3_text" and config.query_pre_attn_scalar != config.head_dim:
        # llama.cpp scales by the width of a head, except in the 27B model, which it recognizes by its size.
        raise _needs_converter(folder, f"{name} with queries scaled by {config.query_pre_attn_scalar}")


def _needs_converter(folder: Path, feature: str) -> InputError:
    return InputError(
        f"{folder} has {feature}, which cannot be written as GGUF here: convert it with llama.cpp's "
        "convert_hf_to_gguf.py, and leave llamacpp out of engines"
    )


def _place_layers(layer_types: Sequence[str]) -> tuple[int, list[int]]:
    """Place a Gemma 3's layers in a file in which exactly every p-th layer has full attention.

    llama.cpp requires this order, but layers chosen from a target often have another one. `_placed_weights` fills the
    gaps.

    Returns:
        `tuple[int, list[int]]`: The period p that needs the fewest layers, and the position of each layer.
    """
    full = [kind == "full_attention" for kind in layer_types]
    if all(full):
        return 1, [*range(len(full))]
    placed = []
    for period in range(len(full) + 1, 1, -1):
        place, places = 0, []
        for is_full in full:
            while ((place + 1) % period == 0) != is_full:
                place += 1
            places.append(place)
            place += 1
        placed.append((period, places))
    return min(placed, key=lambda option: option[1][-1])


def _placed_weights(model: PreTrainedModel, places: Sequence[int]) -> dict[str, torch.Tensor]:
    """Return the weights with renumbered layers; layers in the gaps add nothing, since their last norms are zero."""
    own = model.state_dict()
    weights = {_LAYER.sub(lambda of: f"layers.{places[int(of[1])]}.", name): weight for name, weight in own.items()}
    for place in {*range(places[-1])} - {*places}:
        for name, weight in own.items():
            if "layers.0." in name:
                filler = torch.full_like(weight, -1.0 if name.endswith("norm.weight") else 0.0)
                weights[name.replace("layers.0.", f"layers.{place}.")] = filler
    return weights


def _pair_rotated_rows(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorder the rows of a projection, of shape `(heads * head_dim, hidden)`, so that rotated pairs are adjacent."""
    halves = weight.reshape(heads, 2, -1, weight.shape[1])
    return halves.transpose(1, 2).reshape(weight.shape).contiguous()


def _write_tokenizer(writer: gguf.GGUFWriter, folder: Path, size: int) -> None:
    try:
        vocabulary = gguf.BpeVocab(folder)
    except (FileNotFoundError, ValueError) as error:  # not a byte-level BPE with consecutive ids
        raise InputError(
            f"the tokenizer of {folder} is not a plain byte-level BPE, so it must be copied from the target's GGUF "
            "file: give target_gguf"
        ) from error
    tokens, _, kinds = (list(column) for column in zip(*vocabulary.all_tokens()))
    for token, added in AutoTokenizer.from_pretrained(folder).added_tokens_decoder.items():
        kinds[token] = gguf.TokenType.CONTROL if added.special else gguf.TokenType.USER_DEFINED
    unused = range(len(tokens), size)  # rows of the embeddings without a token
    writer.add_tokenizer_model(vocabulary.tokenizer_model)
    writer.add_tokenizer_pre(_find_pre_tokenizer(folder))
    writer.add_token_list([*tokens, *map(_padding, unused)])
    writer.add_token_types([*kinds, *(gguf.TokenType.UNUSED for _ in unused)])
    special = gguf.SpecialVocab(folder, load_merges=True, n_vocab=size)
    # llama.cpp's default for a missing flag depends on the pre-tokenizer.
    for name in ("bos", "eos"):
        special.add_special_token.setdefault(name, False)
    special.add_to_gguf(writer, quiet=True)


def _copy_tokenizer(writer: gguf.GGUFWriter, folder: Path, size: int, target_gguf: Path) -> None:
    """Copy the tokenizer of the target's file, after a comparison of all tokens with the drafter's.

    llama.cpp compares both files too, but only logs a difference.
    """
    try:
        fields = gguf.GGUFReader(target_gguf).fields
    except (OSError, ValueError) as error:
        raise InputError(f"{target_gguf} is not a GGUF file: {one_line(error)}") from error
    fields = {name: field for name, field in fields.items() if name.startswith("tokenizer.")}
    if "tokenizer.ggml.tokens" not in fields:
        raise InputError(f"{target_gguf} has no vocabulary: give the GGUF file of a language model")
    tokens = fields["tokenizer.ggml.tokens"].contents()
    own = AutoTokenizer.from_pretrained(folder).convert_ids_to_tokens(range(min(len(tokens), size)))
    for token, (text, expected) in enumerate(zip(own, tokens)):
        # llama.cpp's converter writes plain spaces in tokens that were added to a vocabulary.
        if text is not None and text.replace("▁", " ") != expected.replace("▁", " "):
            raise InputError(
                f"token {token} is {text!r} in {folder} and {expected!r} in {target_gguf}: give the file of the "
                "target that this drafter was trained for"
            )
    # Tokens for the rows of the embeddings that have none
    fillers = {"tokens": _padding, "scores": lambda _: -1000.0, "token_type": lambda _: int(gguf.TokenType.UNUSED)}
    for name, field in fields.items():
        value, kinds = field.contents(), field.types
        if fill := fillers.get(name.rpartition(".")[2]):
            value = value[:size] + [fill(token) for token in range(len(value), size)]
        writer.add_key_value(name, value, kinds[0], kinds[1] if len(kinds) > 1 else None)


def _padding(token: int) -> str:
    return f"[PAD{token}]"


def _find_pre_tokenizer(folder: Path) -> str:
    """Find llama.cpp's name for the rule by which a byte-level tokenizer splits text before BPE."""
    pre = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["pre_tokenizer"]
    parts = pre["pretokenizers"] if pre["type"] == "Sequence" else [pre]
    match [part["type"] for part in parts]:
        case ["ByteLevel"] if parts[0]["use_regex"]:
            return "gpt-2"
        case ["Digits", "ByteLevel"] if parts[0]["individual_digits"] and parts[1]["use_regex"]:
            return "smollm"
        case ["Split", "ByteLevel"]:
            for name, split in GGUF_PRE_TOKENIZER_SPLITS.items():
                if parts[0]["pattern"] == {"Regex": split}:
                    return name
    raise _needs_converter(folder, "a tokenizer with an unknown pre-tokenizer")


def check_gguf(folder: Path, path: Path, dtype: str, probes: tuple[str, ...]) -> tuple[float, float]:
    """Load a GGUF file, and compare its token ids and logits with the drafter's on each probe.

    Returns:
        `tuple[float, float]`: The largest difference of a logit from the drafter with its matrices rounded to
        `dtype`, which must be close to 0, and from the drafter itself, which is the effect of rounding.
    """
    place = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    try:
        config = AutoConfig.from_pretrained(**place)
        if config.model_type == "gemma3_text":  # transformers (5.23) does not read these values from the file
            period = gguf.GGUFReader(path).get_field("gemma3.attention.sliding_window_pattern").contents()
            kinds = ("full_attention" if layer % period == 0 else "sliding_attention" for layer in itertools.count(1))
            config.layer_types = [*itertools.islice(kinds, config.num_hidden_layers)]
            config.query_pre_attn_scalar = config.head_dim
        loaded = AutoModelForCausalLM.from_pretrained(
            **place, config=config, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
        loaded_tokenizer = AutoTokenizer.from_pretrained(**place)
    except (ValueError, NotImplementedError) as error:
        raise InputError(f"{path} cannot be loaded: {one_line(error)}") from error
    tokenizer, inputs = AutoTokenizer.from_pretrained(folder), []
    for probe in probes:
        ids, found = (each.encode(probe, add_special_tokens=False) for each in (tokenizer, loaded_tokenizer))
        if ids != found:
            raise InputError(f"{path} has another tokenizer: {probe!r} gives {found}, with the drafter's {ids}")
        inputs.append(torch.tensor([ids]))
    inputs.append(torch.randint(len(tokenizer), (1, _RANDOM_IDS), generator=torch.Generator().manual_seed(0)))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    from_exact = _largest_difference(model, loaded, inputs)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.copy_(weight.to(getattr(torch, dtype)))
    from_rounded = _largest_difference(model, loaded, inputs)
    if not from_rounded <= TOLERANCE:  # also true of NaN
        raise InputError(
            f"the logits of {path} differ from the drafter's by up to {from_rounded:.3g}: do not use it, and report it"
        )
    return from_rounded, from_exact


@torch.no_grad()
def _largest_difference(model: PreTrainedModel, other: PreTrainedModel, inputs: list[torch.Tensor]) -> float:
    differences = [(model(ids).logits - other(ids).logits).abs().max() for ids in inputs]
    return float(torch.stack(differences).max())
