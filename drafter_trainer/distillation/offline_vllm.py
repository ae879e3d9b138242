"""Let vLLM answer in this process, without a server."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from drafter_trainer.distillation.requests import Request
from drafter_trainer.distillation.store import TOP_K, Answer
from drafter_trainer.errors import InputError
from drafter_trainer.targets import Target

_AT_ONCE = 1024  # requests given to vLLM, which batches them itself


class VLLMEngine:
    """Answer with `vllm.LLM.generate`.

    It is tested against vLLM's documented interface (docs.vllm.ai, `LLM` and `SamplingParams` of 0.16), by a stand-in
    that has it, and not against vLLM itself. For several GPUs with a copy of the model each, start servers.

    Args:
        options (`Any`): Further arguments of `vllm.LLM`, such as `tensor_parallel_size`.
    """

    name = "vllm"

    def __init__(self, target: Target, dtype: str, **options: Any) -> None:
        try:
            import vllm
        except ImportError as error:
            raise InputError(f"engine vllm cannot be had ({error}): pip install vllm, or ask a server") from error
        self._sampling = vllm.SamplingParams
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

    def answers(self, batches: Iterable[Sequence[Request]]) -> Iterator[tuple[list[Request], list[Answer]]]:
        """Answer about a thousand requests at a time."""
        requests = itertools.chain.from_iterable(batches)
        while group := list(itertools.islice(requests, _AT_ONCE)):
            outputs = self._llm.generate(
                [{"prompt_token_ids": [*request.prompt_ids]} for request in group],
                [self._sampling_of(request) for request in group],
                use_tqdm=False,
            )
            yield group, [_answer(output.outputs[0]) for output in outputs]

    def _sampling_of(self, request: Request) -> Any:
        return self._sampling(
            n=1,
            temperature=request.temperature,
            top_p=1.0,
            top_k=0,
            min_p=0.0,
            repetition_penalty=1.0,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            seed=int(request.key[:8], 16) >> 1,
            max_tokens=request.max_new_tokens,
            stop_token_ids=self._end_ids,
            logprobs=TOP_K,
            detokenize=False,
        )


def _answer(output: Any) -> Answer:
    # A token that was sampled from below the top 20 stands beside them.
    tops = [sorted(top.items(), key=lambda pair: -pair[1].logprob)[:TOP_K] for top in output.logprobs]
    return Answer(
        [*output.token_ids],
        np.array([[token for token, _ in top] for top in tops], np.int64).reshape(-1, TOP_K),
        np.array([[said.logprob for _, said in top] for top in tops], np.float32).reshape(-1, TOP_K),
        output.finish_reason,
    )
