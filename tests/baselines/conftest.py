"""Baselines with known drafts: always right, sometimes right, or random."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.baselines.eagle import EagleDecoding, EagleLayer
from benchmarks.baselines.medusa import MedusaDecoding, MedusaHeads
from tests.decoding.drafts import add_noise

# A tree of three levels; the nodes of its best path are not adjacent.
SHAPE = [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (0, 1, 0)]


def make_medusa(target_model: PreTrainedModel, heads: MedusaHeads, shape: Sequence[tuple] = SHAPE) -> MedusaDecoding:
    """Decode with Medusa heads over the whole vocabulary."""
    weight = target_model.get_output_embeddings().weight
    return MedusaDecoding(heads, weight, torch.arange(len(weight)), shape)


def make_eagle(target_model: PreTrainedModel, layer: EagleLayer, shape: Sequence[tuple] = SHAPE) -> EagleDecoding:
    """Decode with an EAGLE layer over the whole vocabulary."""
    weight = target_model.get_output_embeddings().weight
    return EagleDecoding(layer, target_model.get_input_embeddings(), weight, torch.arange(len(weight)), shape)


def noisy(module: torch.nn.Module, noise: float, seed: int = 0) -> Any:
    add_noise(module.parameters(), noise, seed)
    return module.eval()


def exact_heads(successors: Sequence[int], heads: int = 3) -> MedusaHeads:
    """Make Medusa heads that are always right for `successor_model(successors)`."""
    size = len(successors)
    module, reached = MedusaHeads(heads, size), list(range(size))
    with torch.no_grad():
        for layer in module.layers:
            reached = [successors[token] for token in reached]
            layer.weight.copy_(10 * torch.eye(size)[:, reached])
    return module


def exact_layer(target_model: PreTrainedModel) -> EagleLayer:
    """Make an EAGLE layer that is always right for a `successor_model`: it returns the token's own state."""
    layer = EagleLayer(target_model.config)
    size = target_model.config.hidden_size
    with torch.no_grad():
        layer.fuse.weight.copy_(torch.cat((torch.eye(size), torch.zeros(size, size)), dim=1))
        layer.fuse.bias.zero_()
        layer.decoder.layers[0].self_attn.o_proj.weight.zero_()
        layer.decoder.layers[0].mlp.down_proj.weight.zero_()
    return layer.eval()
