"""The drafter's network for many texts at once: one set of weights, one forward pass, a cache for each text."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from drafter_trainer.drafters.loop.network import LayerView, LeanNetwork
from drafter_trainer.serving.paged_cache import PagedCache

_PIECE = 512
_SHARED_AT_ONCE = 1024  # tokens whose places in the cache are listed at once
_TOGETHER = 16  # longer texts are read alone up to here, so that a batch is not padded to a prompt's length


class Piece(NamedTuple):
    """Tokens to read behind those that a cache holds.

    Args:
        slot (`int`): The cache of the text.
        start (`int`): Tokens of the text that the cache holds already; what it holds behind them is overwritten.
        tokens (`list[int]`): The tokens that follow, one or more.
    """

    slot: int
    start: int
    tokens: list[int]


class Span(NamedTuple):
    """Positions of a text whose keys and values the target has computed.

    Args:
        slot (`int`): The cache of the text.
        row (`int`): The text's row in the engine's step.
        start, end (`int`): The first position that is taken over, and the one behind the last.
    """

    slot: int
    row: int
    start: int
    end: int


class BatchedNetwork(LeanNetwork):
    """A drafter of a Llama-like family, run on several texts in one forward pass.

    Args:
        model (`PreTrainedModel`): The drafter, on its device; see `loop.families.reason_against`.
        draft_ids (`torch.Tensor` of shape `(draft vocabulary,)`, *optional*): Ids that the head is cut to, ascending.
        int8 (`bool`): Multiply with int8 weights. On a CPU alone.
        slots (`int`): Number of texts that have a cache. All caches are allocated at once.
        context (`int`): Number of tokens of each cache, at most the drafter's context.
    """

    def __init__(self, model, draft_ids: torch.Tensor | None, int8: bool, slots: int, context: int) -> None:
        self.slots, self._context = slots, context
        super().__init__(model, draft_ids, int8)

    @torch.inference_mode()
    def read_batch(self, pieces: Sequence[Piece]) -> torch.Tensor:
        """Read tokens of several texts, each of another slot.

        Returns:
            `torch.Tensor` of shape `(pieces, draft vocabulary)`: logits behind each last token, in fp32.
        Raises:
            ValueError: If a text passes the context of the caches.
        """
        short = []
        for slot, start, tokens in pieces:
            if start + len(tokens) > self.limit:
                raise ValueError(f"{start + len(tokens)} tokens pass the drafter's context of {self.limit}")
            while len(tokens) > _TOGETHER:
                part, tokens = tokens[: min(_PIECE, len(tokens) - 1)], tokens[min(_PIECE, len(tokens) - 1) :]
                self._run([Piece(slot, start, part)])
                start += len(part)
            short.append(Piece(slot, start, tokens))
        return self.logits(self._run(short))

    @torch.inference_mode()
    def share_batch(self, cache: PagedCache, spans: Sequence[Span]) -> None:
        """Attend to the target's keys and values in place of the network's own; see `LeanNetwork.share`.

        Of a layer with a window those are left out that no later token sees: the engine may have dropped them.
        """
        seen = {kind.window: _places_of(spans, kind.window, self.device) for kind in self.kinds}
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
        """Read pieces and return the hidden states of their last tokens, of shape `(pieces, width)`."""
        if len(pieces) == 1:
            return self._run_one(*pieces[0])[-1:]
        lengths = torch.tensor([len(piece.tokens) for piece in pieces], device=self.device)
        longest = max(len(piece.tokens) for piece in pieces)
        # Padding is written behind a text's last token, where its next tokens overwrite it and no mask shows it.
        ids = [piece.tokens + [0] * (longest - len(piece.tokens)) for piece in pieces]
        starts = torch.tensor([piece.start for piece in pieces], device=self.device)
        positions = starts[:, None] + torch.arange(longest, device=self.device)
        slots = torch.tensor([piece.slot for piece in pieces], device=self.device).repeat_interleave(longest)
        seen = torch.arange(max(piece.start for piece in pieces) + longest, device=self.device)
        flat = positions.flatten()
        views = {}
        for kind in self.kinds:
            hidden = seen > positions[..., None]
            if kind.window is not None:
                hidden = hidden | (seen <= positions[..., None] - kind.window)
            mask = torch.zeros(hidden.shape, dtype=self.dtype, device=self.device)
            mask = mask.masked_fill(hidden, float("-inf"))[:, None]  # (texts, heads, tokens, seen)
            mask = mask.repeat(1, 1, self.heads // self.key_value_heads, 1)
            cosines, sines = self._rotations[kind]
            views[kind] = LayerView(cosines[flat], sines[flat], slice(0, len(seen)), mask)
        place = slots, flat, _runs_of([piece.slot for piece in pieces])
        x = self.forward(torch.tensor(ids, device=self.device).flatten(), place, views)
        return x.view(len(pieces), longest, -1)[torch.arange(len(pieces), device=self.device), lengths - 1]

    def _run_one(self, slot: int, start: int, tokens: list[int]) -> torch.Tensor:
        """Read tokens of one text, in a tenth less time than as a batch; return the hidden states of all."""
        positions = slice(start, start + len(tokens))
        return self.forward(torch.tensor(tokens, device=self.device), (slot, positions, None), self._view(positions))

    def _attend(self, layer, x, place, view, keys, values) -> torch.Tensor:
        slots, positions, runs = place
        if runs is None:  # one text
            return super()._attend(layer, x, positions, view, keys[slots], values[slots])
        texts, _, rows, _ = view.mask.shape
        tokens = len(slots) // texts
        queries, new_keys, new_values = self._project(layer, x, view)
        keys[slots, :, positions], values[slots, :, positions] = new_keys.transpose(0, 1), new_values.transpose(0, 1)
        # Heads that share keys are given as further tokens: (texts, key-value heads, group * tokens, head_dim)
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
        del capacity  # of one text that grows; here all caches lie ready
        self.limit = min(self._context, self.limit)
        self.capacity = self.limit + _TOGETHER  # room for padding
        shape = (len(self.layers), self.slots, self.key_value_heads, self.capacity, self.head_dim)
        self._keys, self._values = (
            torch.zeros(shape, dtype=self.dtype, device=self.device).unbind() for _ in range(2)
        )
        self._rotations = self._rotate_positions(self._keys[0][0], self.capacity)


def _places_of(
    spans: Sequence[Span], window: int | None, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return slot, row and position of each token that the tokens behind the spans see."""
    firsts = [start if window is None else max(start, end - window + 1) for _, _, start, end in spans]
    counts = [span.end - first for span, first in zip(spans, firsts)]
    slots, rows = (np.repeat(each, counts) for each in ([span.slot for span in spans], [span.row for span in spans]))
    positions = np.concatenate([np.arange(first, span.end) for span, first in zip(spans, firsts)])
    return tuple(torch.from_numpy(each).to(device) for each in (slots, rows, positions))


def _runs_of(slots: Sequence[int]) -> list[tuple[slice, slice]]:
    """Cut slots into runs that lie side by side, which are read without a copy: their places, and their slots."""
    starts = [place for place, slot in enumerate(slots) if place == 0 or slot != slots[place - 1] + 1]
    ends = [*starts[1:], len(slots)]
    return [(slice(start, end), slice(slots[start], slots[end - 1] + 1)) for start, end in zip(starts, ends)]


def slots_within(model, gibibytes: float, texts: int, context: int) -> int:
    """Return for how many texts caches fit into a memory, at most `texts`."""
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    values = 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * (context + _TOGETHER)
    return min(texts, int(gibibytes * 2**30 / (values * model.dtype.itemsize)))
