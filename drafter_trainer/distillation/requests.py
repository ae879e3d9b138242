"""Requests to complete a prompt, their completions, and the iteration over all requests in batches."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from drafter_trainer.languages import Pair
from drafter_trainer.targets import Target

TOP_K = 20
_READ_SIZE = 4096  # prompts read at once


@dataclass(frozen=True)
class Completion:
    """A completion by the target.

    Args:
        completion_ids (`list[int]`): The generated ids, with the end token if there is one.
        topk_ids (`np.ndarray` of shape `(tokens, 20)`, *optional*): Most likely ids at each position, best first.
        topk_logprobs (`np.ndarray` of shape `(tokens, 20)`, *optional*): log p of these ids in nats, of the
            raw distribution at temperature 1.
        finish_reason (`str`): "stop" after an end token or a stop string, "length" if truncated.
        retokenized (`bool`, *optional*, defaults to `False`): Whether the engine returned only text, which was
            tokenized again.
    """

    completion_ids: list[int]
    topk_ids: np.ndarray | None
    topk_logprobs: np.ndarray | None
    finish_reason: str
    retokenized: bool = False


@dataclass(frozen=True)
class Failure:
    """The reason why a request has no completion, and the engine's own message."""

    reason: str
    message: str = ""


@dataclass(frozen=True)
class Request:
    """A request for one completion by the target.

    Args:
        temperature (`float`, *optional*): 0.0 decodes greedily; `None` if existing text is scored. Neither top-k nor
            top-p is applied.
        seed (`int`): Number that distinguishes the samples of one prompt.
        completion_ids (`tuple[int, ...]`, *optional*): Existing text to score instead of a completion.
        stop (`tuple[str, ...]`, *optional*): Strings that end the completion, in addition to the target's end tokens.
    """

    prompt_ids: tuple[int, ...]
    temperature: float | None
    seed: int
    max_new_tokens: int
    source_id: str
    corpus: str
    pair: str
    target: str
    target_revision: str
    completion_ids: tuple[int, ...] | None = None
    stop: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """SHA-256 of everything that determines the completion."""
        identity = {
            "target": self.target,
            "revision": self.target_revision,
            "prompt_ids": self.prompt_ids,
            "sampling": {"temperature": self.temperature, "top_k": 0, "top_p": 1.0},
            "seed": self.seed,
            "max_new_tokens": self.max_new_tokens,
        }
        if self.stop:
            identity["stop"] = self.stop
        if self.completion_ids is not None:
            identity["response_ids"] = self.completion_ids
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    @property
    def sampling_seed(self) -> int:
        """A seed for engines, from the key. It has 31 bits: llama.cpp takes 32 bits, others take signed integers."""
        return int(self.key[:8], 16) >> 1

    def limit_of(self, completion: Completion) -> int:
        """Return the length limit of a completion; it is lower than the request's if a server's context is full."""
        length = len(completion.completion_ids)
        # If the engine returned only text, the number of generated tokens is unknown.
        truncated = completion.finish_reason == "length" and not completion.retokenized
        return min(length, self.max_new_tokens) if truncated else self.max_new_tokens


@dataclass
class Requests:
    """All combinations of prompts, temperatures and samples, with one sample at temperature 0.

    Args:
        prompts (`pa.Table`): Prompts, as `load_prompts` returns them.
        temperatures (`Sequence[float | None]`): Sampling temperatures; `[None]` if text is scored.
        context (`int`, *optional*): Maximum number of tokens of prompt and completion. It lowers the length limit of
            requests with long prompts, to 0 if there is no room for a completion.
    """

    prompts: pa.Table
    temperatures: Sequence[float | None]
    samples: int
    seed: int
    max_new_tokens: int
    pair: Pair | str
    target: Target
    context: int | None = None

    def __post_init__(self) -> None:
        # Longest first: if memory is too small, the first batch fails, and at the end short completions leave few rows
        # empty. The sort is stable, so that a resumed run forms the same batches.
        lengths = pc.list_value_length(self.prompts["prompt_ids"]).to_numpy()
        if "response_ids" in self.prompts.column_names:
            lengths = lengths + pc.fill_null(pc.list_value_length(self.prompts["response_ids"]), 0).to_numpy()
        longest_first = np.argsort(-lengths, kind="stable")
        self._rows = {
            temperature: np.repeat(longest_first, self.samples) if temperature else longest_first
            for temperature in sorted(set(self.temperatures))
        }

    def __len__(self) -> int:
        return sum(map(len, self._rows.values()))

    def __iter__(self) -> Iterator[Request]:
        return itertools.chain.from_iterable(self.batches(_READ_SIZE))

    def batches(self, batch_size: int, process: tuple[int, int] = (0, 1)) -> Iterator[list[Request]]:
        """Yield batches of one temperature and similar prompt lengths, assigned round-robin to the processes."""
        starts = (
            (temperature, rows, start)
            for temperature, rows in self._rows.items()
            for start in range(0, len(rows), batch_size)
        )
        rank, processes = process
        for temperature, rows, start in itertools.islice(starts, rank, None, processes):
            batch = self.prompts.take(rows[start : start + batch_size]).to_pylist()
            yield [self._request(row, temperature, number) for number, row in enumerate(batch, start)]

    def _request(self, row: dict[str, Any], temperature: float, number: int) -> Request:
        room = self.max_new_tokens if self.context is None else max(0, self.context - len(row["prompt_ids"]))
        return Request(
            prompt_ids=tuple(row["prompt_ids"]),
            temperature=temperature,
            seed=self.seed + number % self.samples if temperature else 0,  # samples of one prompt are adjacent
            max_new_tokens=min(self.max_new_tokens, room),
            source_id=row["source_id"],
            corpus=row["corpus"],
            pair=str(self.pair),
            target=self.target.name,
            target_revision=self.target.revision,
            completion_ids=tuple(row["response_ids"]) if row.get("response_ids") else None,
            stop=self.target.stop,
        )
