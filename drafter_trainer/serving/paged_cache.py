"""Keys and values of the target in an engine's paged cache: where they lie, and how they are read.

An engine keeps the keys and values of all requests in blocks of some tokens, and each request has a table of its
blocks. How a block is laid out is the business of the engine's kernels, which on a processor want keys by columns, for
instance. So nothing is assumed of it: the engine stores known numbers, and it is looked up where they went.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

_BASE = 128  # numbers below it are exact in every type that a cache may have

# Stores keys and values of shape (tokens, heads, head_dim) in a cache, at places that are counted over all blocks
StoreTokens = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], None]


class BlockLayout(NamedTuple):
    """Where a block's keys and values lie in memory.

    Args:
        offsets (`torch.Tensor` of shape `(block size, 2 * heads * head_dim)`): Of each token's keys, then values, from
            the beginning of the block.
        stride (`int`): Distance from one block to the next.
    """

    offsets: torch.Tensor
    stride: int


class PagedLayer(NamedTuple):
    """A layer's keys and values in one step of the engine.

    Args:
        memory (`torch.Tensor` of one dimension): All that the layer's cache lies in.
        layout (`BlockLayout`): How its blocks are laid out; the same object for layers whose blocks are alike.
        blocks (`torch.Tensor` of shape `(rows, blocks)`): The blocks of each row of the step, in the order of the
            text; the same object for layers that share it.
    """

    memory: torch.Tensor
    layout: BlockLayout
    blocks: torch.Tensor

    def find(self, rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return the places in memory of rows' positions, of shape `(positions, 2 * heads * head_dim)`."""
        size = len(self.layout.offsets)
        blocks = self.blocks[rows, positions // size].to(torch.int64)
        return blocks[:, None] * self.layout.stride + self.layout.offsets[positions % size]

    def read(self, places: torch.Tensor, heads: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values at such places, each of shape `(positions, heads, head_dim)`."""
        keys, values = self.memory.take(places).view(len(places), 2, heads, -1).unbind(1)
        return keys, values


PagedCache = Sequence[PagedLayer]  # one for each layer of the network that attends to them


def flat_memory(cache: torch.Tensor) -> torch.Tensor:
    """Return the memory of a cache as one dimension, whatever the order of its own."""
    size = 1 + sum((length - 1) * stride for length, stride in zip(cache.shape, cache.stride()))
    return cache.as_strided((size,), (1,))


def learn_layout(cache: torch.Tensor, heads: int, head_dim: int, store: StoreTokens) -> BlockLayout | None:
    """Find out how an engine lays out the blocks of a cache, by letting it store known numbers in a block like them.

    Args:
        cache (`torch.Tensor` of shape `(blocks, heads, block size, 2 * head_dim)`): The engine's; it is not changed.
        heads, head_dim (`int`): Of the layer's keys.
        store (callable): The engine's own function.
    Returns:
        `BlockLayout`, or `None` where the numbers cannot be found again, as in a cache of fewer bits.
    """
    if cache.dim() != 4 or cache.shape[1] != heads or cache.shape[3] != 2 * head_dim:
        return None
    block_size = cache.shape[2]
    spare = torch.zeros_like(cache[:2])  # the second block is stored to, the first one must stay as it is
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
