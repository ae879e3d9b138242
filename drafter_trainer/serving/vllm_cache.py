"""The target's keys and values in vLLM's paged cache, for a network that was trained to attend to them.

vLLM binds each layer's cache to its `Attention` module. In each step, its forward context has the blocks of each row,
in the order of the rows that a proposer gets. A hook before the target's forward pass records these blocks. A step of
a captured CUDA graph runs no hook, so nothing is shared.

The layout of a block depends on the attention backend: on a CPU keys are stored by columns, for example. Therefore it
is learned: the backend's own kernel stores known numbers, which are then searched in memory.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from vllm.config import VllmConfig

    from drafter_trainer.serving.network import BatchedNetwork

_BASE = 128  # integers below it are exact in every dtype of a cache
_WARNING = "drafting without the target's keys and values, although the drafter was trained with them: %s"
_FIELDS = ("block_table", "seq_lens", "query_start_loc", "slot_mapping")  # of a layer's metadata
_HOOKLESS_STEPS = 100
_logger = logging.getLogger(__name__)

# Stores keys and values of shape (tokens, heads, head_dim) in a cache, in slots that are counted over all blocks
StoreTokens = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], None]


class BlockLayout(NamedTuple):
    """The location of a block's keys and values in memory."""

    offsets: torch.Tensor  # (block size, 2 * heads * head_dim): each token's keys, then values, from the block's start
    stride: int  # from one block to the next


class PagedLayer(NamedTuple):
    """A layer's keys and values in one step of the engine. Layers share layouts and blocks, by identity."""

    memory: torch.Tensor  # the layer's cache as one dimension
    layout: BlockLayout
    blocks: torch.Tensor  # (rows, blocks): the blocks of each row

    def find(self, rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return the memory indices of rows' positions, of shape `(positions, 2 * heads * head_dim)`."""
        size = len(self.layout.offsets)
        blocks = self.blocks[rows, positions // size].to(torch.int64)
        return blocks[:, None] * self.layout.stride + self.layout.offsets[positions % size]

    def read(self, places: torch.Tensor, heads: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the keys and the values at memory indices, each of shape `(positions, heads, head_dim)`."""
        keys, values = self.memory.take(places).view(len(places), 2, heads, -1).unbind(1)
        return keys, values


class TargetCache:
    """The keys and values of the latest step, in the `Attention` layers of vLLM that the network attends to."""

    def __init__(self, layers: Sequence[Any], target_model: torch.nn.Module) -> None:
        from vllm.forward_context import get_forward_context

        self._layers = layers
        self._layouts: list[BlockLayout] = []
        self._metadata: list[Any] | None = None  # of each layer in the latest step
        self._hookless_steps = 0
        self._get_context = get_forward_context
        self._hook = target_model.register_forward_pre_hook(self._note)

    def _note(self, *_: Any) -> None:
        metadata = self._get_context().attn_metadata
        # None while vLLM measures its memory, a list if it splits a batch into two.
        known = isinstance(metadata, dict)
        self._metadata = [metadata.get(layer.layer_name) for layer in self._layers] if known else None

    def take(self) -> list[PagedLayer] | None:
        """Return the cache after the latest step, once; `None` if it is not known."""
        metadata, self._metadata = self._metadata, None
        if self._hook is None:
            return None
        reason = None
        if metadata is None:
            self._hookless_steps += 1
            if not self._layouts and self._hookless_steps >= _HOOKLESS_STEPS:
                reason = f"the first {_HOOKLESS_STEPS} steps ran no hook"
        elif not self._layouts:
            reason = self._learn(metadata)
        if reason is not None:
            _logger.warning(_WARNING, reason)
            self._hook.remove()
            self._hook = None
        if metadata is None or self._hook is None:
            return None
        return [
            PagedLayer(flat_memory(layer.kv_cache), layout, each.block_table)
            for layer, layout, each in zip(self._layers, self._layouts, metadata)
        ]

    @torch.inference_mode()
    def _learn(self, metadata: Sequence[Any]) -> str | None:
        """Learn the layout of each layer's blocks; return a reason if that is not possible."""
        if lacking := [each for each in metadata if not all(hasattr(each, field) for field in _FIELDS)]:
            return f"{type(lacking[0]).__name__} has no table of a row's blocks"
        known: dict[tuple, BlockLayout] = {}
        for layer, each in zip(self._layers, metadata):
            cache = layer.kv_cache
            if not isinstance(cache, torch.Tensor):
                return "a layer has more than one cache"
            kind = type(layer.impl), cache.shape[1:], cache.stride(), cache.dtype
            if kind not in known:

                def store(keys, values, spare, slots, layer=layer) -> None:
                    layer.impl.do_kv_cache_update(layer, keys, values, spare, slots)

                layout = learn_layout(cache, layer.num_kv_heads, layer.head_size, store)
                if layout is None or not _fits(layout, each):
                    return f"{type(layer.impl).__name__} stores keys and values in an unknown form"
                known[kind] = layout
            self._layouts.append(known[kind])
        return None


def open_target_cache(
    vllm_config: "VllmConfig", target_model: torch.nn.Module, network: "BatchedNetwork"
) -> TargetCache | None:
    """Find the target's layers that a network attends to; without them return `None`, with a warning if needed."""
    if not network.kv_sharing_layers:
        return None
    numbered: dict[int, list[Any]] = {}
    for name, layer in vllm_config.compilation_config.static_forward_context.items():
        numbers = [int(word) for word in name.split(".") if word.isdigit()]
        if len(numbers) == 1 and hasattr(getattr(layer, "impl", None), "do_kv_cache_update"):
            numbered.setdefault(numbers[0], []).append(layer)
    found = [numbered.get(number, []) for number in network.kv_sharing_layers]
    shape, everything = (network.key_value_heads, network.head_dim), float("inf")
    if any(len(layers) != 1 for layers in found):
        reason = f"this process does not have the layers {[*network.kv_sharing_layers]} of a plain decoder"
    elif any((layer.num_kv_heads, layer.head_size) != shape for (layer,) in found):
        reason = f"the layers' keys in this process are not {shape[0]} heads of {shape[1]}"
    elif any(
        (layer.sliding_window or everything) < (own.kind.window or everything)
        for (layer,), own in zip(found, network.layers)
    ):
        reason = "the layers' attention windows are shorter than the network's"
    else:
        return TargetCache([layer for (layer,) in found], target_model)
    _logger.warning(_WARNING, reason)
    return None


def flat_memory(cache: torch.Tensor) -> torch.Tensor:
    """Return the memory of a cache as one dimension, for any order of its dimensions."""
    size = 1 + sum((length - 1) * stride for length, stride in zip(cache.shape, cache.stride()))
    return cache.as_strided((size,), (1,))


def learn_layout(cache: torch.Tensor, heads: int, head_dim: int, store: StoreTokens) -> BlockLayout | None:
    """Learn the layout of a cache's blocks by letting the engine store known numbers in a block of this kind.

    The cache, of shape `(blocks, heads, block size, 2 * head_dim)`, is not changed. `None` is returned if the numbers
    are not found again, as in a quantized cache.
    """
    if cache.dim() != 4 or cache.shape[1] != heads or cache.shape[3] != 2 * head_dim:
        return None
    block_size = cache.shape[2]
    spare = torch.zeros_like(cache[:2])  # numbers are stored in the second block; the first must not change
    if spare.stride()[1:] != cache.stride()[1:] or not cache.is_floating_point():
        return None
    numbers = torch.arange(spare[0].numel(), device=cache.device).view(block_size, 2, heads, head_dim)
    found = torch.zeros(spare[0].shape, dtype=torch.int64, device=cache.device)
    slots = torch.arange(block_size, 2 * block_size, device=cache.device)
    unit = 1
    while unit < numbers.numel():  # digit by digit
        keys, values = (numbers // unit % _BASE).to(cache.dtype).unbind(1)
        store(keys.contiguous(), values.contiguous(), spare, slots)
        found += spare[1].round().long() * unit
        unit *= _BASE
    found, order = found.flatten().sort()
    if bool(spare[0].any()) or not torch.equal(found, numbers.flatten()):
        return None
    places = torch.unravel_index(order, spare.shape[1:])
    offsets = sum(place * stride for place, stride in zip(places, cache.stride()[1:]))
    return BlockLayout(offsets.view(block_size, -1), cache.stride(0))


def _fits(layout: BlockLayout, metadata: Any) -> bool:
    """Return whether a step's first row was stored in the slots of its block table."""
    size = len(layout.offsets)
    end, count = int(metadata.seq_lens[0]), int(metadata.query_start_loc[1])
    positions = torch.arange(end - count, end, device=metadata.block_table.device)
    expected = metadata.block_table[0, positions // size] * size + positions % size
    return torch.equal(expected.long(), metadata.slot_mapping[:count].long())
