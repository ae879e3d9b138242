"""The drafter's network for several texts: one set of weights, one forward pass, a cache for each text."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from drafter_trainer.drafters.loop.network import LayerView, LeanNetwork
from drafter_trainer.serving.vllm_cache import PagedLayer

_PIECE = 512
_SHARED_AT_ONCE = 1024  # tokens whose places in the cache are listed at once
_TOGETHER = 16  # texts with more unread tokens are first read separately, so that a batch is not padded to a prompt


class Piece(NamedTuple):
    """Tokens of a text that are read into the cache `slot`, after the text's first `start` tokens."""

    slot: int
    start: int
    tokens: list[int]


class Span(NamedTuple):
    """Positions `start` to `end` of a row of the engine's step; their keys and values go to the cache `slot`."""

    slot: int
    row: int
    start: int
    end: int


class BatchedNetwork(LeanNetwork):
    """A drafter of a Llama-like family, run on several texts in one forward pass.

    Args:
        model (`PreTrainedModel`): The drafter, on its device; see `reason_against`.
        draft_ids (`torch.Tensor` of shape `(draft vocabulary,)`, *optional*): Ids of the pruned head, ascending.
        int8 (`bool`): Multiply with int8 weights, on a CPU only.
        slots (`int`): Number of texts that have a cache. All caches are allocated at once.
        context (`int`): Number of tokens of each cache, at most the drafter's context.
    """

    def __init__(self, model, draft_ids: torch.Tensor | None, int8: bool, slots: int, context: int) -> None:
        self.slots, self._context = slots, context
        super().__init__(model, draft_ids, int8)

    @torch.inference_mode()
    def read_batch(self, pieces: Sequence[Piece]) -> torch.Tensor:
        """Read tokens of several texts, each with a slot of its own.

        Returns:
            `torch.Tensor` of shape `(pieces, draft vocabulary)`: Logits after each piece's last token, in fp32.
        Raises:
            ValueError: If a text exceeds the context of the caches.
        """
        short = []
        for slot, start, tokens in pieces:
            if start + len(tokens) > self.limit:
                raise ValueError(f"{start + len(tokens)} tokens exceed the drafter's context of {self.limit}")
            while len(tokens) > _TOGETHER:
                part, tokens = tokens[: min(_PIECE, len(tokens) - 1)], tokens[min(_PIECE, len(tokens) - 1) :]
                self._run([Piece(slot, start, part)])
                start += len(part)
            short.append(Piece(slot, start, tokens))
        return self.logits(self._run(short))

    @torch.inference_mode()
    def share_batch(self, cache: Sequence[PagedLayer], spans: Sequence[Span]) -> None:
        """Copy the target's keys and values of some positions; see `LeanNetwork.share`.

        Layers with a window get only the positions that later tokens see: the engine may have dropped the others.
        """
        seen = {kind.window: _positions_of(spans, kind.window, self.device) for kind in self.kinds}
        for start in range(0, max(len(positions) for _, _, positions in seen.values()), _SHARED_AT_ONCE):
            part = slice(start, start + _SHARED_AT_ONCE)
            found: dict[tuple, torch.Tensor] = {}
            for layer, keys, values, paged in zip(self.layers, self._keys, self._values, cache):
                slots, rows, positions = (each[part] for each in seen[layer.kind.window])
                if len(positions) == 0:  # a layer with a window sees fewer
                    continue
                shared = layer.kind.window, id(paged.blocks), id(paged.layout)  # by several layers
                if shared not in found:
                    found[shared] = paged.find(rows, positions)
                new_keys, new_values = paged.read(found[shared], self.key_value_heads)
                keys[slots, :, positions] = new_keys.to(self.dtype)
                values[slots, :, positions] = new_values.to(self.dtype)

    def _run(self, pieces: Sequence[Piece]) -> torch.Tensor:
        """Read pieces; return the hidden states of their last tokens, of shape `(pieces, width)`."""
        if len(pieces) == 1:  # takes a tenth less time than a batch of one
            slot, start, tokens = pieces[0]
            positions = slice(start, start + len(tokens))
            place = slot, positions, None
            return self.forward(torch.tensor(tokens, device=self.device), place, self._view(positions))[-1:]
        all_slots, all_starts, all_tokens = zip(*pieces)
        longest = max(map(len, all_tokens))
        # Padding goes after a text's last token, where its next tokens overwrite it and no mask shows it.
        ids = torch.tensor([tokens + [0] * (longest - len(tokens)) for tokens in all_tokens], device=self.device)
        positions = torch.tensor(all_starts, device=self.device)[:, None] + torch.arange(longest, device=self.device)
        slots = torch.tensor(all_slots, device=self.device).repeat_interleave(longest)
        seen = torch.arange(max(all_starts) + longest, device=self.device)
        flat, views = positions.flatten(), {}
        for kind in self.kinds:
            hidden = seen > positions[..., None]
            if kind.window is not None:
                hidden = hidden | (seen <= positions[..., None] - kind.window)
            mask = torch.zeros(hidden.shape, dtype=self.dtype, device=self.device)
            mask = mask.masked_fill(hidden, float("-inf"))[:, None]  # (texts, heads, tokens, seen)
            mask = mask.repeat(1, 1, self.heads // self.key_value_heads, 1)
            cosines, sines = self._rotations[kind]
            views[kind] = LayerView(cosines[flat], sines[flat], slice(0, len(seen)), mask)
        x = self.forward(ids.flatten(), (slots, flat, _runs_of(all_slots)), views).view(len(pieces), longest, -1)
        return torch.stack([states[len(tokens) - 1] for states, tokens in zip(x, all_tokens)])

    def _attend(self, layer, x, place, view, keys, values) -> torch.Tensor:
        slots, positions, runs = place
        if runs is None:  # one text
            return super()._attend(layer, x, positions, view, keys[slots], values[slots])
        texts, _, rows, _ = view.mask.shape
        tokens = len(slots) // texts
        queries, new_keys, new_values = self._project(layer, x, view)
        keys[slots, :, positions], values[slots, :, positions] = new_keys.transpose(0, 1), new_values.transpose(0, 1)
        # Heads that share keys are passed as further tokens: (texts, key-value heads, group * tokens, head_dim)
        queries = queries.view(self.key_value_heads, -1, texts, tokens, self.head_dim).permute(2, 0, 1, 3, 4)
        queries = queries.reshape(texts, self.key_value_heads, rows, self.head_dim)
        attended = [
            F.scaled_dot_product_attention(
                queries[texts_of],
                keys[slots_of, :, view.seen],
                values[slots_of, :, view.seen],
                attn_mask=view.mask[texts_of],
                scale=self.scale,
            )
            for texts_of, slots_of in runs
        ]
        attended = torch.cat(attended).view(texts, self.heads, tokens, self.head_dim)
        return attended.transpose(1, 2).reshape(texts * tokens, -1)

    def _reserve(self, capacity: int) -> None:
        del capacity  # for one growing text; here all caches are allocated at once
        self.limit = min(self._context, self.limit)
        self.capacity = self.limit + _TOGETHER  # room for padding
        shape = (len(self.layers), self.slots, self.key_value_heads, self.capacity, self.head_dim)
        self._keys, self._values = (
            torch.zeros(shape, dtype=self.dtype, device=self.device).unbind() for _ in range(2)
        )
        self._rotations = self._rotate_positions(self._keys[0][0], self.capacity)


def _positions_of(
    spans: Sequence[Span], window: int | None, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return slot, row and position of each token of the spans that later tokens see."""
    firsts = [start if window is None else max(start, end - window + 1) for _, _, start, end in spans]
    counts = [span.end - first for span, first in zip(spans, firsts)]
    slots, rows = (np.repeat(each, counts) for each in ([span.slot for span in spans], [span.row for span in spans]))
    positions = np.concatenate([np.arange(first, span.end) for span, first in zip(spans, firsts)])
    return tuple(torch.from_numpy(each).to(device) for each in (slots, rows, positions))


def _runs_of(slots: Sequence[int]) -> list[tuple[slice, slice]]:
    """Return slices of texts, and slices of their consecutive slots, whose caches are read without a copy."""
    starts = [place for place, slot in enumerate(slots) if place == 0 or slot != slots[place - 1] + 1]
    ends = [*starts[1:], len(slots)]
    return [(slice(start, end), slice(slots[start], slots[end - 1] + 1)) for start, end in zip(starts, ends)]


def slots_within(model, gibibytes: float, texts: int, context: int) -> int:
    """Return the number of texts, at most `texts`, whose caches fit into an amount of memory."""
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    values = 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * (context + _TOGETHER)
    return min(texts, int(gibibytes * 2**30 / (values * model.dtype.itemsize)))
