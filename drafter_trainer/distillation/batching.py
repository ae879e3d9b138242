"""A batch of answers under way, in which a request takes the place of one that has ended."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from drafter_trainer.decoding.metrics import count_shared
from drafter_trainer.distillation.cache import RoomyLayer, roomy_cache
from drafter_trainer.distillation.requests import Request
from drafter_trainer.distillation.sampling import TokenChooser
from drafter_trainer.distillation.store import TOP_K, Completion

_EVICT_BELOW = 0.75


class RunningBatch:
    """A batch of requests of any temperature and length, one token of each decoded at every step.

    Prompts are read as a batch of their own, and their keys and values put into the rows of answers that have ended
    (continuous batching: Yu et al., "Orca", OSDI 2022); what all prompts begin with is read once. All rows end at the
    same column of the cache, so that a step writes one column; a row's columns are as many as its tokens, and its
    first token has position 0. Rows that nothing follows leave the batch when they are a quarter of it, since that
    copies the cache.
    """

    def __init__(self, model: PreTrainedModel, pad_id: int, eos_ids: frozenset[int]) -> None:
        self.model = model
        self.pad_id = pad_id
        self.eos_ids = eos_ids
        self._cache = roomy_cache(model)
        # A recurrent state has no columns to put a prompt in, and the library's cannot leave out rows.
        self.refillable = all(isinstance(layer, RoomyLayer) for layer in self._cache.layers)
        self._columns = 0
        self._rows: list[_Row | None] = []
        self._tokens = torch.empty(0, dtype=torch.long)  # the last of each row
        self._chooser = TokenChooser(TOP_K)
        self._prefix: tuple[int, ...] | None = None
        self._window: int | None = getattr(model.config.get_text_config(), "sliding_window", None)
        self._prefix_states: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __len__(self) -> int:
        return sum(row is not None for row in self._rows)

    @torch.inference_mode()
    def add(self, requests: Sequence[Request]) -> list[tuple[Request, Completion]]:
        """Read prompts and take their answers' first tokens.

        Args:
            requests (`Sequence[Request]`): Where answers are under way, only if the batch is `refillable`.
        Returns:
            `list[tuple[Request, Completion]]`, those that ended at once.
        """
        rows: list[_Row | None] = [_Row(request) for request in requests]
        longest = max(len(request.prompt_ids) for request in requests)
        # A sliding window counts columns: behind a gap it would end before a prefix that the row still sees.
        shared = not self._window or longest <= self._window
        cache = self._prefixed_cache(requests) if shared else roomy_cache(self.model)
        prefix = len(self._prefix) if shared else 0
        gaps = [longest - len(request.prompt_ids) for request in requests]  # between the prefix and the rest
        ids = [[self.pad_id] * gap + [*request.prompt_ids[prefix:]] for gap, request in zip(gaps, requests)]
        positions = torch.arange(longest, device=self.model.device) - self._on_device(gaps)[:, None]
        mask = positions >= prefix
        mask[:, :prefix] = True
        logits = self._read(self._on_device(ids), mask, positions[:, prefix:].clamp(min=0), cache)
        if prefix:
            for layer in cache.layers:
                layer.close_gaps(prefix, gaps)
        tokens, ended = self._choose(rows, logits)
        if not len(self):
            self._rows, self._tokens, self._cache, self._columns = rows, tokens, cache, longest
        elif len(ended) < len(rows):
            self._put(rows, tokens, cache, longest)
        return ended

    @torch.inference_mode()
    def step(self) -> list[tuple[Request, Completion]]:
        """Take a token more of each answer; return those that have ended."""
        if self.refillable:
            self._shrink()
        # A row without an answer has no columns but the new one.
        lengths = [row.cached if row else 0 for row in self._rows]
        positions = self._on_device(lengths)[:, None]
        mask = torch.arange(self._columns + 1, device=self.model.device) >= self._columns - positions
        logits = self._read(self._tokens[:, None], mask, positions, self._cache)
        self._columns += 1
        self._tokens, ended = self._choose(self._rows, logits)
        return ended

    def _prefixed_cache(self, requests: Sequence[Request]) -> DynamicCache:
        """Make a cache that holds what all prompts so far begin with, such as the chat template: it is read once."""
        prompts = [request.prompt_ids[:-1] for request in requests]  # an id of each is left to read
        if self._prefix is None:
            self._prefix = _common_start(prompts) if self.refillable else ()
            if self._prefix:
                cache, ids = roomy_cache(self.model), self._on_device([self._prefix])
                positions = torch.arange(len(self._prefix), device=self.model.device)[None]
                self._read(ids, positions >= 0, positions, cache)
                self._prefix_states = [(layer.keys, layer.values) for layer in cache.layers]
        self._prefix = _common_start([self._prefix, *prompts])
        cache = roomy_cache(self.model)
        if self._prefix:
            for layer, states in zip(cache.layers, self._prefix_states):
                layer.update(*(s[:, :, : len(self._prefix)].expand(len(requests), -1, -1, -1) for s in states))
        return cache

    def _read(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        """Return the logits behind the last id of each row, `(rows, vocabulary)`."""
        output = self.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1
        )
        return output.logits[:, -1]

    def _choose(
        self, rows: list["_Row | None"], logits: torch.Tensor
    ) -> tuple[torch.Tensor, list[tuple[Request, Completion]]]:
        """Choose and note each row's next token; rows whose answers end with it are freed."""
        temperatures = [row.request.temperature if row else 0.0 for row in rows]
        noise = [row.draw() if temperature else 0.0 for row, temperature in zip(rows, temperatures)]
        tokens, ids, logprobs = self._chooser(logits, temperatures, noise)
        ended = []
        steps = zip(rows, tokens.tolist(), ids.int().cpu().numpy(), logprobs.cpu().numpy())
        for number, (row, *step) in enumerate(steps):
            if row and (answer := row.note(*step, self.eos_ids)):
                ended.append((row.request, answer))
                rows[number] = None
        return tokens, ended

    def _put(self, rows: Sequence["_Row | None"], tokens: torch.Tensor, cache: DynamicCache, columns: int) -> None:
        """Give free rows, and as many more as they need, to rows of a cache that has read their prompts."""
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
        source, places = self._on_device(chosen), self._on_device(free[: len(chosen)])
        self._tokens[places] = tokens[source]
        for layer, read in zip(self._cache.layers, cache.layers):
            layer.put(places, read, source)

    def _shrink(self) -> None:
        """Let go of columns that no row needs any more, and of free rows where there are many."""
        kept = [number for number, row in enumerate(self._rows) if row]
        if len(kept) <= _EVICT_BELOW * len(self._rows):
            self._rows = [self._rows[number] for number in kept]
            indices = self._on_device(kept)
            self._tokens = self._tokens[indices]
            self._cache.batch_select_indices(indices)
        longest = max(row.cached for row in self._rows if row)
        if longest < self._columns:
            self._columns = longest
            for layer in self._cache.layers:
                layer.trim(longest)

    def _on_device(self, values: Sequence) -> torch.Tensor:
        return torch.tensor(values, device=self.model.device)


class _Row:
    """A completion in progress: its tokens and, for each, the top k of the distribution at temperature 1.

    Its noise is drawn from its own key, so that what is sampled does not depend on what else is in the batch.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self._random = np.random.Generator(np.random.Philox(key=int(request.key[:32], 16)))
        self._tokens: list[int] = []
        self._topk_ids: list[np.ndarray] = []
        self._topk_logprobs: list[np.ndarray] = []

    @property
    def cached(self) -> int:
        """Tokens that the cache holds: all but the last."""
        return len(self.request.prompt_ids) + len(self._tokens) - 1

    def draw(self) -> float:
        """Draw from [0, 1), as fp32 has it: a draw of fp64 may become 1 there."""
        return float(self._random.random(dtype=np.float32))

    def note(self, token: int, ids: np.ndarray, logprobs: np.ndarray, eos_ids: frozenset[int]) -> Completion | None:
        """Note a token; return the answer if it ends with it."""
        self._tokens.append(token)
        self._topk_ids.append(ids)
        self._topk_logprobs.append(logprobs)
        stops = token in eos_ids
        if not stops and len(self._tokens) < self.request.max_new_tokens:
            return None
        return Completion(
            self._tokens, np.stack(self._topk_ids), np.stack(self._topk_logprobs), "stop" if stops else "length"
        )


def _common_start(prompts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the ids with which all prompts begin."""
    first, last = min(prompts), max(prompts)  # what these share is shared by all that stand between them
    return first[: count_shared(first, last)]
