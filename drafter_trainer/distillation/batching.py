"""A batch of completions in progress: a new request takes the row of a completion that has ended."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from drafter_trainer.decoding.metrics import count_shared
from drafter_trainer.distillation.requests import TOP_K, Completion, Request
from drafter_trainer.distillation.sampling import choose_tokens
from drafter_trainer.drafters.loop.calls import CACHE

_EVICT_BELOW = 0.75  # share of used rows
_ROOM = 64  # columns


class RunningBatch:
    """A batch of requests of any temperature and length; a step decodes one token of each.

    New prompts are read as a separate batch. Their keys and values are then copied into the rows of completions that
    have ended (continuous batching: Yu et al., "Orca", OSDI 2022). The common prefix of all prompts is read once. All
    rows end at the same column of the cache, so that a step writes one column. Free rows are removed only when they
    are a quarter of the batch, since the removal copies the cache.
    """

    def __init__(self, model: PreTrainedModel, pad_id: int, eos_ids: frozenset[int]) -> None:
        self.model = model
        self.pad_id = pad_id
        self.eos_ids = eos_ids
        self._cache = _make_cache(model)
        # Recurrent layers have no columns, and those of transformers cannot select rows.
        self.refillable = all(isinstance(layer, RoomyLayer) for layer in self._cache.layers)
        self._columns = 0
        self._rows: list[_Row | None] = []
        self._tokens = torch.empty(0, dtype=torch.long)  # the last token of each row
        self._prefix: tuple[int, ...] | None = None
        self._window: int | None = getattr(model.config.get_text_config(), "sliding_window", None)
        self._prefix_states: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __len__(self) -> int:
        return sum(row is not None for row in self._rows)

    @torch.inference_mode()
    def add(self, requests: Sequence[Request]) -> list[tuple[Request, Completion]]:
        """Read prompts and decode their first tokens; return the completions that end with this token.

        A batch that is not `refillable` must be empty.
        """
        rows: list[_Row | None] = [_Row(request) for request in requests]
        longest = max(len(request.prompt_ids) for request in requests)
        # A sliding window counts columns: with a gap in it, it would exclude a prefix that the row still attends to.
        shared = not self._window or longest <= self._window
        cache = self._prefixed_cache(requests) if shared else _make_cache(self.model)
        prefix = len(self._prefix) if shared else 0
        gaps = [longest - len(request.prompt_ids) for request in requests]  # between the prefix and the rest
        ids = [[self.pad_id] * gap + [*request.prompt_ids[prefix:]] for gap, request in zip(gaps, requests)]
        positions = torch.arange(longest, device=self.model.device) - self._tensor(gaps)[:, None]
        mask = positions >= prefix
        mask[:, :prefix] = True
        logits = self._forward(self._tensor(ids), mask, positions[:, prefix:].clamp(min=0), cache)
        if prefix:
            for layer in cache.layers:
                layer.close_gaps(prefix, gaps)
        tokens, ended = self._choose(rows, logits)
        if not len(self):
            self._rows, self._tokens, self._cache, self._columns = rows, tokens, cache, longest
        elif len(ended) < len(rows):
            self._insert(rows, tokens, cache, longest)
        return ended

    @torch.inference_mode()
    def step(self) -> list[tuple[Request, Completion]]:
        """Decode one token of each row; return the completions that end with this token."""
        if self.refillable:
            self._shrink()
        positions = self._tensor([row.cached if row else 0 for row in self._rows])[:, None]
        mask = torch.arange(self._columns + 1, device=self.model.device) >= self._columns - positions
        logits = self._forward(self._tokens[:, None], mask, positions, self._cache)
        self._columns += 1
        self._tokens, ended = self._choose(self._rows, logits)
        return ended

    def _prefixed_cache(self, requests: Sequence[Request]) -> DynamicCache:
        """Make a cache that holds the common prefix of all prompts so far, such as the chat template's."""
        prompts = [request.prompt_ids[:-1] for request in requests]  # at least one id of each is read later
        if self._prefix is None:
            self._prefix = _common_prefix(prompts) if self.refillable else ()
            if self._prefix:
                cache, ids = _make_cache(self.model), self._tensor([self._prefix])
                positions = torch.arange(len(self._prefix), device=self.model.device)[None]
                self._forward(ids, positions >= 0, positions, cache)
                self._prefix_states = [(layer.keys, layer.values) for layer in cache.layers]
        self._prefix = _common_prefix([self._prefix, *prompts])
        cache = _make_cache(self.model)
        if self._prefix:
            for layer, states in zip(cache.layers, self._prefix_states):
                layer.update(*(s[:, :, : len(self._prefix)].expand(len(requests), -1, -1, -1) for s in states))
        return cache

    def _forward(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        """Return the logits after the last id of each row, `(rows, vocabulary)`."""
        output = self.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, **{CACHE: cache}, logits_to_keep=1
        )
        return output.logits[:, -1]

    def _choose(
        self, rows: list["_Row | None"], logits: torch.Tensor
    ) -> tuple[torch.Tensor, list[tuple[Request, Completion]]]:
        """Choose and record each row's next token, and free the rows whose completions end with it."""
        temperatures = [row.request.temperature if row else 0.0 for row in rows]
        # In fp32, since a random number in fp64 may be rounded to 1.
        noise = [float(row.random.random(dtype=np.float32)) if t else 0.0 for row, t in zip(rows, temperatures)]
        tokens, ids, logprobs = choose_tokens(logits, temperatures, noise, TOP_K)
        ended = []
        steps = zip(rows, tokens.tolist(), ids.int().cpu().numpy(), logprobs.cpu().numpy())
        for number, (row, *step) in enumerate(steps):
            if row and (completion := row.append(*step, self.eos_ids)):
                ended.append((row.request, completion))
                rows[number] = None
        return tokens, ended

    def _insert(self, rows: Sequence["_Row | None"], tokens: torch.Tensor, cache: DynamicCache, columns: int) -> None:
        """Copy rows that have read their prompts to free rows, and to new ones if needed."""
        chosen = [number for number, row in enumerate(rows) if row]
        free = [number for number, row in enumerate(self._rows) if row is None]
        missing = max(0, len(chosen) - len(free))
        free += range(len(self._rows), len(self._rows) + missing)
        if missing or columns > self._columns:
            self._columns = max(columns, self._columns)
            self._rows += [None] * missing
            self._tokens = torch.cat([self._tokens, self._tokens.new_zeros(missing)])
            for layer in self._cache.layers:
                layer.resize(len(self._rows), self._columns)
        for number, place in zip(chosen, free):
            self._rows[place] = rows[number]
        source, places = self._tensor(chosen), self._tensor(free[: len(chosen)])
        self._tokens[places] = tokens[source]
        for layer, read in zip(self._cache.layers, cache.layers):
            layer.put(places, read, source)

    def _shrink(self) -> None:
        """Remove the columns that no row needs, and the free rows if there are many."""
        kept = [number for number, row in enumerate(self._rows) if row]
        if len(kept) <= _EVICT_BELOW * len(self._rows):
            self._rows = [self._rows[number] for number in kept]
            indices = self._tensor(kept)
            self._tokens = self._tokens[indices]
            self._cache.batch_select_indices(indices)
        longest = max(row.cached for row in self._rows if row)
        if longest < self._columns:
            self._columns = longest
            for layer in self._cache.layers:
                layer.keys, layer.values = layer.keys[:, :, -longest:], layer.values[:, :, -longest:]

    def _tensor(self, values: Sequence) -> torch.Tensor:
        return torch.tensor(values, device=self.model.device)


class _Row:
    """A completion in progress: its tokens and, for each, the top k of the distribution at temperature 1.

    The random state is seeded with the request's key, so that samples do not depend on the rest of the batch.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.random = np.random.Generator(np.random.Philox(key=int(request.key[:32], 16)))
        self._steps: list[tuple[int, np.ndarray, np.ndarray]] = []

    @property
    def cached(self) -> int:
        """Number of tokens in the cache: all but the last."""
        return len(self.request.prompt_ids) + len(self._steps) - 1

    def append(
        self, token: int, topk_ids: np.ndarray, topk_logprobs: np.ndarray, eos_ids: frozenset[int]
    ) -> Completion | None:
        """Record a token; return the completion if it ends with this token."""
        self._steps.append((token, topk_ids, topk_logprobs))
        if token not in eos_ids and len(self._steps) < self.request.max_new_tokens:
            return None
        tokens, ids, logprobs = zip(*self._steps)
        return Completion([*tokens], np.stack(ids), np.stack(logprobs), "stop" if token in eos_ids else "length")


class RoomyLayer(DynamicLayer):
    """The keys and values of an attention layer, in buffers with room for the next tokens.

    `keys` and `values`, of shape `(rows, heads, columns, width)`, are views of the buffers. All rows end at the last
    column. Values before a row's own columns are finite, and the attention mask hides them. Layers with a sliding
    window keep all columns, so that all layers have the same columns; the mask hides those outside the window.
    """

    _buffers: tuple[torch.Tensor, torch.Tensor] | None = None
    _end = 0  # column of the buffers after the views

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> tuple:
        """Append states of shape `(rows, heads, tokens, width)`."""
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
        """Move to new buffers with room for `coming` more columns; `rows` and `columns` do not shrink."""
        old = (self.keys, self.values)
        # Zeros, because hidden values have weight 0, and 0 times NaN is NaN.
        self._buffers = tuple(
            states.new_zeros((rows, states.shape[1], columns + coming + _ROOM, states.shape[-1])) for states in old
        )
        self.keys, self.values = (buffer[:, :, :columns] for buffer in self._buffers)
        for new, states in zip((self.keys, self.values), old):
            new[: states.shape[0], :, columns - states.shape[-2] :] = states
        self._end = columns

    def put(self, rows: torch.Tensor, prompts: "RoomyLayer", chosen: torch.Tensor) -> None:
        """Copy chosen rows of a layer that has read prompts to rows of this layer, which has no fewer columns."""
        columns = prompts.get_seq_length()
        for states, read in ((self.keys, prompts.keys), (self.values, prompts.values)):
            states[:, :, -columns:].index_copy_(0, rows, read[chosen])

    def close_gaps(self, prefix: int, gaps: Sequence[int]) -> None:
        """Move the first columns, the same in all rows, to the right by each row's gap."""
        for states in (self.keys, self.values):
            first = states[0, :, :prefix].clone()
            for row, gap in enumerate(gaps):
                states[row, :, gap : gap + prefix] = first

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows of the batch."""
        super().batch_select_indices(indices)
        self._buffers = None  # the kept rows were copied out of them


def _make_cache(model: PreTrainedModel) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    attention = (DynamicLayer, DynamicSlidingWindowLayer)
    cache.layers = [RoomyLayer() if type(layer) in attention else layer for layer in cache.layers]
    return cache


def _common_prefix(prompts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    first, last = min(prompts), max(prompts)  # in sorted order, all prompts share the prefix of these two
    return first[: count_shared(first, last)]
