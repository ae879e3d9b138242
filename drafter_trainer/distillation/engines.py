"""Engines that make the target answer."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from drafter_trainer.distillation.requests import Request
from drafter_trainer.distillation.store import TOP_K, Answer, Refusal
from drafter_trainer.targets import end_ids

_EVICT_BELOW = 0.75
_ROOM = 64


class Engine(Protocol):
    """Let the target answer requests.

    `name` is written beside each row. `whole_batches` tells whether an answer depends on the batch that its request
    stands in: then a batch is asked again as a whole even if a part of it is stored.
    """

    name: str
    whole_batches: bool

    def answers(
        self, batches: Iterable[Sequence[Request]]
    ) -> Iterator[tuple[Sequence[Request], Sequence[Answer | Refusal]]]:
        """Answer every request once, in any order and grouping.

        Batches are taken when there is room for them, so that a million requests need no memory at once.

        Args:
            batches (`Iterable[Sequence[Request]]`): Each of one temperature and one length limit.
        Yields:
            Requests, and as many answers in their order; a refusal stands for what will never be answered.
        Raises:
            InputError: If nothing more can be answered; what was answered before has been yielded.
        """
        ...


class TransformersEngine:
    """Answer batches of requests with a local model.

    The loop is `generate`'s, with two differences. An answer that ended leaves the batch: with `generate` it stays
    until the longest has ended, and one that loops up to the length limit keeps all others waiting. And the cache has
    room for the tokens to come: `generate`'s is copied at every token.

    Args:
        model (`PreTrainedModel`): The target, on its device.
        pad_id (`int`): Id that fills prompts up on the left.
    """

    name = "transformers"
    whole_batches = True  # one random state is drawn from for a whole batch

    def __init__(self, model: PreTrainedModel, pad_id: int) -> None:
        self.model = model
        self.pad_id = pad_id
        self.eos_ids = end_ids(model)

    def answers(self, batches: Iterable[Sequence[Request]]) -> Iterator[tuple[Sequence[Request], list[Answer]]]:
        """Answer one batch after the other."""
        for batch in batches:
            yield batch, self.answer(batch)

    @torch.inference_mode()
    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Answer one batch.

        The random state is set from the batch's first key, so a batch is answered alike in every run.

        Args:
            requests (`Sequence[Request]`): Of one temperature and one length limit.
        Returns:
            `list[Answer]` in the order of the requests.
        """
        device, temperature = self.model.device, requests[0].temperature
        longest = max(len(request.prompt_ids) for request in requests)
        prompts = [[self.pad_id] * (longest - len(request.prompt_ids)) + [*request.prompt_ids] for request in requests]
        padding = torch.tensor([longest - len(request.prompt_ids) for request in requests], device=device)
        generator = torch.Generator(device).manual_seed(int(requests[0].key[:15], 16))
        cache = _roomy_cache(self.model)
        input_ids = torch.tensor(prompts, device=device)
        rows = torch.arange(len(requests), device=device)  # which request each row of the batch answers
        recorder = _Recorder(len(requests), requests[0].max_new_tokens)
        for step in range(requests[0].max_new_tokens):
            end = longest + step
            positions = torch.arange(end, device=device)[None] - padding[rows, None]
            logits = (
                self.model(
                    input_ids=input_ids,
                    attention_mask=(positions >= 0).long(),
                    position_ids=positions[:, -input_ids.shape[1] :].clamp(min=0),
                    past_key_values=cache,
                    logits_to_keep=1,
                )
                .logits[:, -1]
                .float()
            )
            # Drawn for all rows, also those that left: what a row gets does not depend on the others' lengths.
            noise = torch.rand(len(requests), device=device, generator=generator)[rows]
            tokens = logits.argmax(dim=-1) if temperature == 0 else _sample(logits / temperature, noise)
            ended = recorder.note(rows, step, tokens, logits, self.eos_ids)
            if ended.all():
                break
            input_ids = tokens[:, None]
            going = ~ended
            if going.sum() <= _EVICT_BELOW * len(rows):
                kept = going.nonzero()[:, 0].to(device)
                cache.batch_select_indices(kept)
                rows, input_ids = rows[kept], input_ids[kept]
        return recorder.answers()


class TextEngine:
    """Give text that is there already in place of answers; a `Teacher` says what the target thinks of it."""

    name = "text"
    whole_batches = False

    def answers(self, batches: Iterable[Sequence[Request]]) -> Iterator[tuple[Sequence[Request], list[Answer]]]:
        """Give each request its own text, as an answer without log-probabilities."""
        for batch in batches:
            yield batch, [self._answer(request) for request in batch]

    def _answer(self, request: Request) -> Answer:
        cut = len(request.response_ids) == request.max_new_tokens
        return Answer([*request.response_ids], None, None, "length" if cut else "stop")


class _RoomyLayer(DynamicLayer):
    """Keep a layer's keys and values at the front of buffers with room for those to come."""

    _buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> tuple:
        """Write behind what is there, of shape `(batch, heads, tokens, width)`."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._buffers is None or end > self._buffers[0].shape[-2]:
            self._buffers = tuple(
                new.new_empty((*new.shape[:2], end + _ROOM, new.shape[-1])) for new in (key_states, value_states)
            )
            for buffer, old in zip(self._buffers, (self.keys, self.values)):
                if start:
                    buffer[:, :, :start] = old
        for buffer, new in zip(self._buffers, (key_states, value_states)):
            buffer[:, :, start:end] = new
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows of the batch."""
        super().batch_select_indices(indices)
        self._buffers = None  # the rows that stay were copied out of them


def _roomy_cache(model: PreTrainedModel) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    # Layers with a window or a state have caches of their own that do not grow.
    cache.layers = [_RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class _Recorder:
    """Note tokens and the most likely ids of each step, of the raw distribution at temperature 1."""

    def __init__(self, requests: int, max_new_tokens: int) -> None:
        self._tokens = np.zeros((requests, max_new_tokens), np.int64)
        self._lengths = np.zeros(requests, np.int64)
        self._ended = np.zeros(requests, bool)
        self._topk_ids = np.zeros((requests, max_new_tokens, TOP_K), np.int32)
        self._topk_logprobs = np.zeros((requests, max_new_tokens, TOP_K), np.float32)

    def note(
        self, rows: torch.Tensor, step: int, tokens: torch.Tensor, logits: torch.Tensor, eos_ids: frozenset[int]
    ) -> torch.Tensor:
        """Note a step; return which of the rows have ended, of shape `(rows,)`, on the CPU."""
        values, ids = logits.topk(TOP_K, dim=-1)
        logprobs = values - logits.logsumexp(dim=-1, keepdim=True)
        number, token = rows.cpu().numpy(), tokens.cpu().numpy()
        self._topk_ids[number, step], self._topk_logprobs[number, step] = ids.cpu().numpy(), logprobs.cpu().numpy()
        self._tokens[number, step] = token
        self._lengths[number] = np.where(self._ended[number], self._lengths[number], step + 1)
        self._ended[number] |= np.isin(token, list(eos_ids))
        return torch.from_numpy(self._ended[number])

    def answers(self) -> list[Answer]:
        """Return what was noted, each up to its end."""
        return [
            Answer(
                response_ids=self._tokens[number, :length].tolist(),
                topk_ids=self._topk_ids[number, :length],
                topk_logprobs=self._topk_logprobs[number, :length],
                finish_reason="stop" if self._ended[number] else "length",
            )
            for number, length in enumerate(self._lengths.tolist())
        ]


def _sample(logits: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Draw a token a row by inversion of its distribution; `noise` has the shape `(rows,)`, uniform in [0, 1)."""
    sums = logits.softmax(dim=-1).cumsum(dim=-1)
    # Less than the last sum, and past all ids of probability 0: these do not raise a sum.
    return torch.searchsorted(sums, (noise[:, None] * sums[:, -1:]), right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
