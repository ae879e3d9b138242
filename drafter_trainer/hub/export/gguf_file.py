"""A drafter as a GGUF file, and the check that it is the same drafter.

llama.cpp keeps the rows of a Llama's query and key projections in another order than transformers: there the two
halves that a rotation pairs stand apart within each head, in GGUF side by side.
"""

import json
import subprocess
import sys
from pathlib import Path

import gguf
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from drafter_trainer.errors import InputError
from drafter_trainer.hub.export.constraints import GgufVocabulary

TOLERANCE = 1e-4  # of logits in float32, between the drafter with its weights rounded alike and the file
_SPECIAL = ("bos_token_id", "eos_token_id", "add_bos_token", "add_eos_token")
_FILE_TYPES = {
    "float32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32, "f32"),
    "float16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16, "f16"),
    "bfloat16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16, "bf16"),
}
_RANDOM_IDS = 64


def convert(converter: Path, folder: Path, dtype: str, path: Path) -> None:
    """Let llama.cpp's own converter write the file.

    Args:
        converter (`Path`): Its convert_hf_to_gguf.py.
        folder (`Path`): The drafter.
        dtype (`str`): Of the weights.
        path (`Path`): The file to write.
    Raises:
        InputError: If it fails; the message has the last line that it said.
    """
    options = ["--outfile", str(path), "--outtype", _FILE_TYPES[dtype][2]]
    done = subprocess.run([sys.executable, str(converter), str(folder), *options], capture_output=True, text=True)
    if done.returncode != 0 or not path.is_file():
        reason = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise InputError(f"{converter} failed for {folder}: {reason}")


def write_gguf(folder: Path, dtype: str, pre_tokenizer: str | None, path: Path) -> None:
    """Write a drafter of the Llama architecture with byte-level BPE as a GGUF file.

    Args:
        folder (`Path`): The drafter.
        dtype (`str`): Of the matrices; norms stay in float32.
        pre_tokenizer (`str`, *optional*): llama.cpp's name for how text is split before BPE; found from the tokenizer
            if left out.
        path (`Path`): The file to write.
    Raises:
        InputError: If the drafter is something else; the message says what does write it.
    Source: the keys and the order of rows are those of conversion/llama.py in llama.cpp
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = model.config
    _check_architecture(folder, config)
    quantization, file_type, _ = _FILE_TYPES[dtype]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("model")
    writer.add_name(folder.name)
    writer.add_file_type(file_type)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, folder, config.vocab_size, pre_tokenizer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue  # llama.cpp takes the embeddings where there is no head
        if name.endswith("q_proj.weight"):
            weight = _pair_rotated_rows(weight, config.num_attention_heads)
        elif name.endswith("k_proj.weight"):
            weight = _pair_rotated_rows(weight, config.num_key_value_heads)
        kind = quantization if weight.ndim > 1 else gguf.GGMLQuantizationType.F32
        data = gguf.quants.quantize(weight.numpy(), kind)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _check_architecture(folder: Path, config) -> None:
    odd = None
    if config.model_type != "llama":
        odd = f"of the architecture {config.model_type}"
    elif config.attention_bias or config.mlp_bias:
        odd = "a Llama with biases"
    elif config.rope_parameters["rope_type"] != "default":
        odd = f"a Llama with {config.rope_parameters['rope_type']} positions"
    if odd:
        raise _needs_converter(folder, odd)


def _needs_converter(folder: Path, what: str) -> InputError:
    return InputError(
        f"{folder} is {what}, which is not written here: name llama.cpp's converter with "
        f"--converter llama.cpp/convert_hf_to_gguf.py"
    )


def _add_tokenizer(writer: gguf.GGUFWriter, folder: Path, size: int, pre_tokenizer: str | None) -> None:
    try:
        vocabulary = gguf.BpeVocab(folder)
    except (FileNotFoundError, ValueError) as error:  # it asks for byte-level BPE with consecutive ids
        raise _needs_converter(folder, "no model with plain byte-level BPE") from error
    pieces = AutoTokenizer.from_pretrained(folder)
    tokens, _, kinds = (list(column) for column in zip(*vocabulary.all_tokens()))
    for token, added in pieces.added_tokens_decoder.items():
        kinds[token] = gguf.TokenType.CONTROL if added.special else gguf.TokenType.USER_DEFINED
    for token in range(len(tokens), size):  # rows of the embeddings without a token of their own
        tokens.append(f"[PAD{token}]")
        kinds.append(gguf.TokenType.UNUSED)
    writer.add_tokenizer_model(vocabulary.tokenizer_model)
    writer.add_tokenizer_pre(pre_tokenizer or _find_pre_tokenizer(folder))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    special = gguf.SpecialVocab(folder, load_merges=True, n_vocab=size)
    # What llama.cpp would assume in place of a flag depends on the name above.
    for name in ("bos", "eos"):
        special.add_special_token.setdefault(name, False)
    special.add_to_gguf(writer, quiet=True)


def _find_pre_tokenizer(folder: Path) -> str:
    """Find llama.cpp's name for how a byte-level tokenizer splits text before BPE."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    pre = tokenizer["pre_tokenizer"]
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
    raise _needs_converter(folder, "a model whose tokenizer splits text in a way of its own")


def _pair_rotated_rows(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Put the two rows that are rotated together side by side, within each head.

    Args:
        weight (`torch.Tensor` of shape `(heads * head_dim, hidden)`): Of a query or key projection.
    """
    halves = weight.reshape(heads, 2, -1, weight.shape[1])
    return halves.transpose(1, 2).reshape(weight.shape).contiguous()


def read_vocabulary(path: Path) -> GgufVocabulary:
    """Read what llama.cpp compares of a GGUF file.

    Raises:
        InputError: If there is no such file, or it has no vocabulary.
    """
    try:
        fields = gguf.GGUFReader(path).fields
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no GGUF file: {' '.join(str(error).split())}") from error
    stated = {name: fields[key].contents() for name in _SPECIAL if (key := f"tokenizer.ggml.{name}") in fields}
    kind, tokens = (fields.get(f"tokenizer.ggml.{name}") for name in ("model", "tokens"))
    if kind is None or tokens is None:
        raise InputError(f"{path} has no vocabulary: name the GGUF file of a language model")
    return GgufVocabulary(kind.contents(), tokens.contents(), stated)


def read_pre_tokenizer(path: Path) -> str | None:
    """Read llama.cpp's name for how text is split before BPE, `None` where a GGUF file does not say."""
    field = gguf.GGUFReader(path).fields.get("tokenizer.ggml.pre")
    return None if field is None else field.contents()


def check_gguf(folder: Path, path: Path, dtype: str, probes: tuple[str, ...]) -> tuple[float, float]:
    """Load a GGUF file back and compare it with its drafter: ids of the probes, and all logits at each of them.

    Args:
        folder (`Path`): The drafter.
        path (`Path`): The file.
        dtype (`str`): In which the file holds the matrices.
        probes (`tuple[str, ...]`): Texts in the drafter's languages.
    Returns:
        `tuple[float, float]`, the largest difference of a logit: from the drafter with its matrices rounded to
        `dtype`, which must be nothing but the order of additions, and from the drafter itself, which is what rounding
        costs.
    Raises:
        InputError: If it cannot be loaded back, or gives other ids or logits.
    """
    place = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            **place, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
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
