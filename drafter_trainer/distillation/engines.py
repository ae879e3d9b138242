"""Engines that make the target answer."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from transformers import PreTrainedModel

from drafter_trainer.distillation.batching import RunningBatch
from drafter_trainer.distillation.requests import Request
from drafter_trainer.distillation.store import Completion, Failure
from drafter_trainer.targets import end_ids

# Of the rows. To read a few prompts costs an accelerator about as much as a step of all rows, so they are not read one
# by one; until they are read their rows are of no use.
_REFILL_SHARE = 1 / 8


class Engine(Protocol):
    """A source of the target's completions; its `name` is stored with each row."""

    name: str

    def complete(
        self, batches: Iterable[Sequence[Request]]
    ) -> Iterator[tuple[Sequence[Request], Sequence[Completion | Failure]]]:
        """Completion every request once, in any order and grouping.

        Batches are taken when there is room for them, so that a million requests need no memory at once.

        Args:
            batches (`Iterable[Sequence[Request]]`): Each of one temperature and one length limit.
        Yields:
            Requests, and as many answers in their order; a refusal stands for what will never be answered.
        """
        ...


class TransformersEngine:
    """Completion with a local model, by continuous batching.

    The loop is `generate`'s, with two differences. When some answers have ended, other requests take their rows: with
    `generate` these stay until the longest has ended, and one that loops up to the length limit keeps all others
    waiting. And the cache has room for the tokens to come: `generate`'s is copied at every token. A model that has
    layers with a recurrent state answers one batch after the other, each up to the end of its longest answer.

    What is sampled for a request depends on its key and, but for rounding, on nothing else.
    """

    name = "transformers"

    def __init__(self, model: PreTrainedModel, pad_id: int) -> None:
        self.model = model
        self.pad_id = pad_id
        self.eos_ids = end_ids(model)

    def complete(
        self, batches: Iterable[Sequence[Request]]
    ) -> Iterator[tuple[Sequence[Request], Sequence[Completion]]]:
        """Completion as many requests at once as the largest batch has, and yield groups of that size as they end."""
        batches = iter(batches)
        running = RunningBatch(self.model, self.pad_id, self.eos_ids)
        waiting: deque[Request] = deque()
        ended: list[tuple[Request, Completion]] = []
        size = 1
        while True:
            while len(waiting) < size - len(running) and (batch := next(batches, None)) is not None:
                waiting.extend(batch)
                size = max(size, len(batch))
            free = size - len(running)
            if waiting and (free == size or (running.refillable and free >= _REFILL_SHARE * size)):
                ended += running.add([waiting.popleft() for _ in range(min(free, len(waiting)))])
            elif free < size:
                ended += running.step()
            else:
                break
            while len(ended) >= size:
                yield tuple(zip(*ended[:size]))
                ended = ended[size:]
        if ended:
            yield tuple(zip(*ended))

    def complete_batch(self, requests: Sequence[Request]) -> list[Completion]:
        """Completion requests all at once, in their order.

        Args:
            requests (`Sequence[Request]`): Of one temperature and one length limit.
        """
        given = {request: answer for group in self.complete([requests]) for request, answer in zip(*group)}
        return [given[request] for request in requests]


class TextEngine:
    """An engine that returns existing text as completions; a `Scorer` scores them with the target."""

    name = "text"

    def complete(self, batches: Iterable[Sequence[Request]]) -> Iterator[tuple[Sequence[Request], list[Completion]]]:
        """Give each request its own text, as an answer without log-probabilities."""
        for batch in batches:
            yield batch, [self._answer(request) for request in batch]

    def _answer(self, request: Request) -> Completion:
        cut = len(request.completion_ids) == request.max_new_tokens
        return Completion([*request.completion_ids], None, None, "length" if cut else "stop")
