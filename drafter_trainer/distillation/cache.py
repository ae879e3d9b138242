"""The cache of a running batch: room for tokens to come, and rows that are given to other prompts."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

_ROOM = 64  # columns


class RoomyLayer(DynamicLayer):
    """An attention layer's keys and values, in buffers with room for the tokens to come.

    `keys` and `values`, of shape `(rows, heads, columns, width)`, are views of the buffers. All rows end at the last
    column; what stands before a row's own columns is finite, and the attention mask hides it. Layers with a sliding
    window keep what is behind it, too: the mask hides that as well, and the columns of all layers are the same.
    """

    _buffers: tuple[torch.Tensor, torch.Tensor] | None = None
    _end = 0  # column of the buffers behind the views

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> tuple:
        """Write behind what is there, of shape `(rows, heads, tokens, width)`."""
        if not self.get_seq_length():
            return super().update(key_states, value_states)
        if self._buffers is None or self._end + key_states.shape[-2] > self._buffers[0].shape[-2]:
            self.resize(self.keys.shape[0], self.get_seq_length(), key_states.shape[-2])
        start, end = self._end - self.get_seq_length(), self._end + key_states.shape[-2]
        for buffer, new in zip(self._buffers, (key_states, value_states)):
            buffer[:, :, self._end : end] = new
        self.keys, self.values = (buffer[:, :, start:end] for buffer in self._buffers)
        self._end = end
        return self.keys, self.values

    def resize(self, rows: int, columns: int, coming: int = 0) -> None:
        """Move to new buffers of so many rows and columns, at least as many as there are, and room behind them."""
        old = (self.keys, self.values)
        # Zeros: what the mask hides has no weight, and no weight times NaN is NaN.
        self._buffers = tuple(
            states.new_zeros((rows, states.shape[1], columns + coming + _ROOM, states.shape[-1])) for states in old
        )
        self.keys, self.values = (buffer[:, :, :columns] for buffer in self._buffers)
        for new, states in zip((self.keys, self.values), old):
            new[: states.shape[0], :, columns - states.shape[-2] :] = states
        self._end = columns

    def trim(self, columns: int) -> None:
        """Let go of all but the last columns."""
        self.keys, self.values = self.keys[:, :, -columns:], self.values[:, :, -columns:]

    def put(self, rows: torch.Tensor, prompts: "RoomyLayer", chosen: torch.Tensor) -> None:
        """Give rows to chosen rows of a layer that has read prompts, of no more columns than there are here."""
        columns = prompts.get_seq_length()
        for states, read in ((self.keys, prompts.keys), (self.values, prompts.values)):
            states[:, :, -columns:].index_copy_(0, rows, read[chosen])

    def close_gaps(self, prefix: int, gaps: Sequence[int]) -> None:
        """Move the first columns, alike in all rows, to the right by each row's gap."""
        for states in (self.keys, self.values):
            first = states[0, :, :prefix].clone()
            for row, gap in enumerate(gaps):
                if gap:
                    states[row, :, gap : gap + prefix] = first

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows of the batch."""
        super().batch_select_indices(indices)
        self._buffers = None  # the rows that stay were copied out of them


def roomy_cache(model: PreTrainedModel) -> DynamicCache:
    """Make a cache in which all attention layers have room."""
    cache = DynamicCache(config=model.config)
    attention = (DynamicLayer, DynamicSlidingWindowLayer)
    cache.layers = [RoomyLayer() if type(layer) in attention else layer for layer in cache.layers]
    return cache
