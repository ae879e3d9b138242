"""Let vLLM answer in this process, without a server."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from drafter_trainer.distillation.requests import Request
from drafter_trainer.distillation.server_kinds import OFF, make_completion
from drafter_trainer.distillation.store import TOP_K, Completion
from drafter_trainer.errors import InputError
from drafter_trainer.targets import Target

_AT_ONCE = 1024  # requests given to vLLM, which batches them itself


class VLLMEngine:
    """Completion with `vllm.LLM.generate`.

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

    def complete(self, batches: Iterable[Sequence[Request]]) -> Iterator[tuple[list[Request], list[Completion]]]:
        """Completion about a thousand requests at a time."""
        requests = itertools.chain.from_iterable(batches)
        while group := list(itertools.islice(requests, _AT_ONCE)):
            outputs = self._llm.generate(
                [{"prompt_token_ids": [*request.prompt_ids]} for request in group],
                [self._sampling_of(request) for request in group],
                use_tqdm=False,
            )
            yield group, [_read(output.outputs[0], request) for output, request in zip(outputs, group)]

    def _sampling_of(self, request: Request) -> Any:
        return self._sampling(
            **OFF,
            n=1,
            temperature=request.temperature,
            top_k=0,
            repetition_penalty=1.0,
            seed=request.sampling_seed,
            max_tokens=request.max_new_tokens,
            stop_token_ids=self._end_ids,
            logprobs=TOP_K,
            detokenize=False,
        )


def _read(output: Any, request: Request) -> Completion:
    tops = [[(token, said.logprob) for token, said in top.items()] for top in output.logprobs]
    return make_completion(output.token_ids, tops, output.finish_reason, request)
