"""The answers that the target is asked for: all of them, in batches, without holding them at once."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from drafter_trainer.languages import Pair
from drafter_trainer.targets import Target

_AT_ONCE = 4096


@dataclass(frozen=True)
class Request:
    """Hold one answer that the target is to give.

    Args:
        prompt_ids (`tuple[int, ...]`): The prompt as the target reads it, chat template included.
        temperature (`float`, *optional*): 0.0 decodes greedily; `None` where text is scored and nothing is decoded.
            Neither top-k nor top-p is ever applied.
        seed (`int`): Tells samples of one prompt apart.
        max_new_tokens (`int`): Length limit of the answer.
        source_id (`str`): Where the prompt came from.
        corpus (`str`): Name of the corpus.
        pair (`str`): Pair of languages.
        target (`str`): Hub id of the target.
        target_revision (`str`): Its revision.
        response_ids (`tuple[int, ...]`, *optional*): Text to score in place of an answer.
        stop (`tuple[str, ...]`, *optional*): Characters that end the answer besides the target's end tokens.
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
    response_ids: tuple[int, ...] | None = None
    stop: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """SHA-256 over everything that decides the answer: equal keys are the same work."""
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
        if self.response_ids is not None:
            identity["response_ids"] = self.response_ids
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def trial(self) -> "Request":
        """Return what finds out whether a server answers: one token, greedily, behind the first of the prompt."""
        return replace(self, prompt_ids=self.prompt_ids[:1], temperature=0.0, max_new_tokens=1)


class Requests:
    """Cross prompts with temperatures and samples; T = 0 is asked once, whatever the number of samples.

    Args:
        prompts (`pa.Table`): As `load_prompts` gives them.
        temperatures (`Sequence[float | None]`): Each prompt is asked at each; `[None]` where text is scored.
        samples (`int`): Times that it is asked at each temperature above 0.
        seed (`int`): Seed of the first sample.
        max_new_tokens (`int`): Length limit of an answer.
        pair (`Pair` or `str`): Pair of languages; empty where the prompts are of none.
        target (`Target`): Who is asked.
        context (`int`, *optional*): Tokens of prompt and answer that the target can read. It shortens the limit of
            requests with long prompts; one that leaves no room for an answer gets a limit of 0, and is not to be
            asked.
    """

    def __init__(
        self,
        prompts: pa.Table,
        temperatures: Sequence[float | None],
        samples: int,
        seed: int,
        max_new_tokens: int,
        pair: Pair | str,
        target: Target,
        context: int | None = None,
    ) -> None:
        self._context = context
        self._prompts = prompts
        self._samples = samples
        self._seed = seed
        self._max_new_tokens = max_new_tokens
        self._pair = pair
        self._target = target
        # Longest first: what does not fit is known at once, and short answers leave few rows empty at the end. Equally
        # long ones in their order: a resumed run forms the batches of the first.
        lengths = pc.list_value_length(prompts["prompt_ids"]).to_numpy()
        if "response_ids" in prompts.column_names:
            lengths = lengths + pc.fill_null(pc.list_value_length(prompts["response_ids"]), 0).to_numpy()
        longest_first = np.argsort(-lengths, kind="stable")
        firsts = longest_first[prompts["repetition"].to_numpy()[longest_first] == 0]
        self._asked = {
            temperature: np.repeat(longest_first, samples) if temperature else firsts
            for temperature in sorted(set(temperatures))
        }

    @property
    def prompts(self) -> int:
        """How many prompts there are."""
        return self._prompts.num_rows

    def __len__(self) -> int:
        return sum(map(len, self._asked.values()))

    def __iter__(self) -> Iterator[Request]:
        return itertools.chain.from_iterable(self.batches(_AT_ONCE))

    def batch_sizes(self, batch_size: int) -> list[int]:
        """Return how many requests each batch has."""
        return [
            len(numbers[start : start + batch_size])
            for numbers in self._asked.values()
            for start in range(0, len(numbers), batch_size)
        ]

    def batches(self, batch_size: int, process: tuple[int, int] = (0, 1)) -> Iterator[list[Request]]:
        """Yield batches of one temperature and of prompts of similar length.

        Args:
            batch_size (`int`): Requests of a batch, fewer at the end of a temperature.
            process (`tuple[int, int]`, *optional*, defaults to `(0, 1)`): Rank of this process and their number; each
                takes every so-manieth batch.
        """
        places = (
            (temperature, numbers, start)
            for temperature, numbers in self._asked.items()
            for start in range(0, len(numbers), batch_size)
        )
        rank, processes = process
        for temperature, numbers, start in itertools.islice(places, rank, None, processes):
            chosen = numbers[start : start + batch_size]
            rows = self._prompts.take(chosen).to_pylist()
            yield [self._request(row, temperature, start + place) for place, row in enumerate(rows)]

    def _request(self, row: dict[str, Any], temperature: float, place: int) -> Request:
        # A prompt's samples stand side by side.
        sample = row["repetition"] * self._samples + place % self._samples
        room = self._max_new_tokens if self._context is None else max(0, self._context - len(row["prompt_ids"]))
        return Request(
            prompt_ids=tuple(row["prompt_ids"]),
            temperature=temperature,
            seed=self._seed + sample if temperature else 0,
            max_new_tokens=min(self._max_new_tokens, room),
            source_id=row["source_id"],
            corpus=row["corpus"],
            pair=str(self._pair),
            target=self._target.name,
            target_revision=self._target.revision,
            response_ids=tuple(row["response_ids"]) if row.get("response_ids") else None,
            stop=self._target.stop,
        )
