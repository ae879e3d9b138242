"""Compact drafters: layers in int8 or int4, of some megabytes, without the target's embeddings and head.

A drafter that was trained with frozen embeddings has the target's embeddings. For a large vocabulary, they are most of
the drafter's bytes. `load_drafter` takes them from the target, without a copy.
"""

import copy
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from drafter_trainer.errors import InputError

COMPACT = "compact.safetensors"
FORMATS = {"stock": 0, "compact": 8, "compact-int4": 4}  # formats of a repository: bits of a compact weight
_SCALE, _UNIT = ".scale", ".unit"  # suffixes of a matrix's scales, and of the unit of a row's int4 scales
_GROUP = 32  # weights of a row that share a scale in int4
_CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)


def write_compact(model: PreTrainedModel, target_model: PreTrainedModel, folder: Path, bits: int = 8) -> None:
    """Write a drafter's configurations, and all its weights but embeddings and head, to a folder.

    Matrices are stored in int8 with a scale for each row, or in int4 with a scale for each 32 weights of a row if rows
    are multiples of 32; everything else in the drafter's dtype.

    Raises:
        InputError: If the drafter's embeddings or head are not the target's.
    """
    shared = set()
    for name, getter in (("embeddings", "get_input_embeddings"), ("head", "get_output_embeddings")):
        own, other = (getattr(each, getter)().weight for each in (model, target_model))
        rows = min(len(own), len(other))
        if not torch.equal(own[:rows].to(torch.bfloat16), other[:rows].to(torch.bfloat16)):
            raise InputError(
                f"the drafter's {name} are not the target's, so a compact repository would lose them: publish the "
                "stock format, or train with frozen embeddings"
            )
        shared.add(own.data_ptr())
    tensors = {}
    for name, weight in model.state_dict().items():
        if weight.data_ptr() in shared:
            continue
        if weight.dim() != 2:
            tensors[name] = weight.contiguous()
        elif bits == 4 and weight.shape[1] % _GROUP == 0:
            tensors[name], tensors[name + _SCALE], tensors[name + _UNIT] = _to_int4(weight.float())
        else:
            scale = weight.float().abs().amax(dim=1).clamp(min=1e-8) / 127
            tensors[name] = (weight.float() / scale[:, None]).round().to(torch.int8)
            tensors[name + _SCALE] = scale
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    save_file(tensors, folder / COMPACT, metadata={"format": "pt"})


def read_compact(folder: Path, embeddings: torch.Tensor, head: torch.Tensor, dtype: torch.dtype) -> PreTrainedModel:
    """Build a drafter around its target's embeddings and head of shape `(vocabulary, width)`, without a copy of them.

    Raises:
        InputError: If the target's embeddings are quantized or of another width.
        SafetensorError, RuntimeError: If the file is damaged or lacks a tensor.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if not embeddings.is_floating_point() or embeddings.dim() != 2 or embeddings.shape[1] != config.hidden_size:
        raise InputError(
            f"the target's embeddings ({embeddings.dtype}, {tuple(embeddings.shape)}) cannot be those of a compact "
            f"drafter of width {config.hidden_size}: use its stock format"
        )
    small = copy.deepcopy(config)
    small.vocab_size, small.pad_token_id = 1, None  # placeholders until the target's embeddings are set
    model = AutoModelForCausalLM.from_config(small, dtype=dtype)
    tensors = load_file(folder / COMPACT)
    weights = {}
    for name, weight in tensors.items():
        if name + _UNIT in tensors:
            weight = _from_int4(weight, tensors[name + _SCALE], tensors[name + _UNIT])
        elif name + _SCALE in tensors:
            weight = weight * tensors[name + _SCALE][:, None]
        elif name.endswith((_SCALE, _UNIT)):
            continue
        weights[name] = weight.to(dtype)
    own = model.get_input_embeddings(), model.get_output_embeddings()
    placeholders = {id(layer.weight) for layer in own}
    left_out = {name for name, weight in model.named_parameters(remove_duplicate=False) if id(weight) in placeholders}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if wrong := sorted({*missing, *unexpected} - left_out):
        raise RuntimeError(f"{COMPACT} and config.json differ in {', '.join(wrong[:3])}")
    model.to(embeddings.device)
    # requires_grad: without gradients torch 2.13 copies the whole head in every pass over several tokens.
    own[0].weight = torch.nn.Parameter(embeddings.detach().to(dtype))
    own[1].weight = own[0].weight
    if head.data_ptr() != embeddings.data_ptr():
        own[1].weight = torch.nn.Parameter(head.detach().to(dtype))
    own[0].num_embeddings = own[1].out_features = model.config.vocab_size = len(embeddings)
    model.config.pad_token_id = config.pad_token_id
    return model


def embeddings_and_head(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a target's embeddings and head, as `read_compact` takes them."""
    return model.get_input_embeddings().weight, model.get_output_embeddings().weight


def _to_int4(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return pairs of int4 values in uint8, scales of groups in uint8, and units of rows in fp16.

    Each group gets the scale with the least squared error, of a few: a little clipping costs less than coarse steps.
    """
    groups = weight.view(len(weight), -1, _GROUP)
    largest = groups.abs().amax(dim=-1, keepdim=True)
    unit = (largest.amax(dim=1, keepdim=True) / (7 * 255)).clamp(min=1e-7).half()
    scales = torch.stack([(largest * clip / 7 / unit).round().clamp(1, 255) for clip in _CLIPS])
    values = (groups / (scales * unit)).round().clamp(-8, 7)
    best = (values * scales * unit - groups).square().sum(dim=-1, keepdim=True).argmin(dim=0, keepdim=True)
    scales = scales.gather(0, best)[0]
    values = values.gather(0, best.expand(-1, -1, -1, _GROUP))[0]
    pairs = (values + 8).to(torch.uint8).view(len(weight), -1, 2)
    return pairs[..., 0] | pairs[..., 1] << 4, scales.squeeze(-1).to(torch.uint8), unit.flatten()


def _from_int4(pairs: torch.Tensor, scales: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
    values = torch.stack((pairs & 15, pairs >> 4), dim=-1).float() - 8
    scale = scales.float() * unit.float()[:, None]
    return (values.view(len(pairs), -1, _GROUP) * scale[..., None]).flatten(1)
