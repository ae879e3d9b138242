"""Engines that complete prompts with the target in this process: transformers, vLLM, and existing text."""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from transformers import PreTrainedModel

from drafter_trainer.distillation.batching import RunningBatch
from drafter_trainer.distillation.requests import TOP_K, Completion, Failure, Request
from drafter_trainer.distillation.server_kinds import make_completion, vllm_sampling
from drafter_trainer.errors import InputError
from drafter_trainer.targets import Target, end_ids

# Share of the rows that must be free before new prompts are read. On an accelerator, reading a few prompts takes about
# as long as a step of all rows, but free rows are wasted.
_REFILL_SHARE = 1 / 8
_VLLM_BATCH = 1024  # requests handed to vLLM, which batches them itself

Group = tuple[Sequence[Request], Sequence[Completion | Failure]]


class Engine(Protocol):
    """A source of the target's completions; its `name` is stored with each row."""

    name: str

    def complete(self, batches: Iterable[Sequence[Request]]) -> Iterator[Group]:
        """Complete every request once, in any order and grouping.

        Batches are read only when there is room for them, so that millions of requests need little memory.

        Args:
            batches (`Iterable[Sequence[Request]]`): Batches, each of one temperature and one length limit.
        Yields:
            Requests, and their completions in the same order. A request with a `Failure` is not repeated.
        """
        ...


class TransformersEngine:
    """An engine that runs a model in this process with continuous batching.

    Its loop differs from `generate` in two ways. First, when a completion ends, another request takes its row, whereas
    `generate` waits for the longest completion of the batch. Second, its cache has room for the next tokens, whereas
    `generate` copies the cache at every token. Models with recurrent layers complete one batch after the other.

    A sampled completion depends on the key of its request only, except for rounding.
    """

    name = "transformers"

    def __init__(self, model: PreTrainedModel, pad_id: int) -> None:
        self.model = model
        self.pad_id = pad_id
        self.eos_ids = end_ids(model)

    def complete(self, batches: Iterable[Sequence[Request]]) -> Iterator[Group]:
        """Complete up to as many requests at once as the largest batch has, and yield groups of this size."""
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
        """Complete requests of one temperature and one length limit at once, and keep their order."""
        completions = {request: each for group in self.complete([requests]) for request, each in zip(*group)}
        return [completions[request] for request in requests]


class TextEngine:
    """An engine that returns existing text as completions without log-probabilities; a `Scorer` adds them."""

    name = "text"

    def complete(self, batches: Iterable[Sequence[Request]]) -> Iterator[Group]:
        """Return the text of each request."""
        for batch in batches:
            texts = [[*request.completion_ids] for request in batch]
            truncated = [len(ids) == request.max_new_tokens for ids, request in zip(texts, batch)]
            finishes = ["length" if each else "stop" for each in truncated]
            yield batch, [Completion(ids, None, None, finish) for ids, finish in zip(texts, finishes)]


class VLLMEngine:
    """An engine that runs `vllm.LLM` in this process.

    It follows vLLM's documentation (docs.vllm.ai, `LLM` and `SamplingParams` of 0.16). For data parallelism over
    several GPUs, use servers instead.

    Args:
        options (`Any`): Further arguments of `vllm.LLM`, such as `tensor_parallel_size`.
    """

    name = "vllm"

    def __init__(self, target: Target, dtype: str, **options: Any) -> None:
        try:
            import vllm
        except ImportError as error:
            raise InputError(f"vllm cannot be imported ({error}): pip install vllm, or use a server") from error
        self._sampling_params = vllm.SamplingParams
        self._end_ids = target.end_ids(target.load_tokenizer()) if target.stop else []
        self._llm = vllm.LLM(
            model=target.path,
            revision=target.hub_revision,
            tokenizer_revision=target.hub_revision,
            dtype=dtype,
            logprobs_mode="raw_logprobs",
            max_logprobs=TOP_K,
            **options,
        )

    def complete(self, batches: Iterable[Sequence[Request]]) -> Iterator[Group]:
        """Complete about a thousand requests at a time."""
        requests = itertools.chain.from_iterable(batches)
        while group := list(itertools.islice(requests, _VLLM_BATCH)):
            sampling = [
                self._sampling_params(**vllm_sampling(request), stop_token_ids=self._end_ids, detokenize=False)
                for request in group
            ]
            prompts = [{"prompt_token_ids": [*request.prompt_ids]} for request in group]
            outputs = self._llm.generate(prompts, sampling, use_tqdm=False)
            yield group, [_read_vllm(output.outputs[0], request) for output, request in zip(outputs, group)]


def _read_vllm(output: Any, request: Request) -> Completion:
    tops = [[(token, entry.logprob) for token, entry in top.items()] for top in output.logprobs]
    return make_completion(output.token_ids, tops, output.finish_reason, request)
