"""vLLM in this process, by a stand-in with its documented interface: what it is asked, and how it is read."""

import sys
from dataclasses import make_dataclass, replace
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from drafter_trainer.distillation import engines
from drafter_trainer.distillation.engines import TransformersEngine, VLLMEngine
from drafter_trainer.distillation.prompts import Prompt
from drafter_trainer.errors import InputError
from tests.distillation.conftest import REQUEST, TARGET, make_requests

# Of vLLM's class of this name, without defaults: each has to be stated.
NAMES = "n temperature top_p top_k min_p repetition_penalty presence_penalty frequency_penalty seed max_tokens"
NAMES += " stop_token_ids logprobs detokenize"
SamplingParams = make_dataclass("SamplingParams", NAMES.split(), kw_only=True)


@pytest.fixture
def made(target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> list:
    """Put a stand-in for vLLM in its place; return what its `LLM` was made with and asked."""
    made: list[Any] = []
    engine = TransformersEngine(target_model, tokenizer.pad_token_id)

    class LLM:
        def __init__(self, **given: Any) -> None:
            made.append(given)

        def generate(self, prompts: list[dict], sampling: list[SamplingParams], use_tqdm: bool) -> list[Any]:
            assert len(prompts) == len(sampling)
            made.append(sampling)
            return [self._answer(prompt["prompt_token_ids"], how) for prompt, how in zip(prompts, sampling)]

        def _answer(self, ids: list[int], how: SamplingParams) -> Any:
            given = {"temperature": how.temperature, "seed": how.seed, "max_new_tokens": how.max_tokens}
            (answer,) = engine.complete_batch([replace(REQUEST, prompt_ids=tuple(ids), **given)])
            logprobs = [
                # The sampled token comes first, and in addition where it is none of the 20.
                {token: SimpleNamespace(logprob=-50.0)} | {i: SimpleNamespace(logprob=p) for i, p in zip(top, values)}
                for token, top, values in zip(
                    answer.completion_ids, answer.topk_ids.tolist(), answer.topk_logprobs.tolist()
                )
            ]
            output = SimpleNamespace(
                token_ids=answer.completion_ids, logprobs=logprobs, finish_reason=answer.finish_reason
            )
            return SimpleNamespace(outputs=[output])

    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SamplingParams
    monkeypatch.setitem(sys.modules, "vllm", module)
    return made


def test_answers_are_those_of_the_local_target(made, target_model, tokenizer, prompts, monkeypatch) -> None:
    """Prevent answers under another's key, and the sampled token from standing among the most likely ones."""
    monkeypatch.setattr(engines, "_VLLM_BATCH", 5)
    requests = make_requests(prompts, [0.0, 1.0], 1, 0, 8)
    local = TransformersEngine(target_model, tokenizer.pad_token_id)
    answered = 0
    for group, answers in VLLMEngine(TARGET, "float32").complete(requests.batches(4)):
        for request, answer in zip(group, answers):
            answered += 1
            assert answer.topk_ids.shape == answer.topk_logprobs.shape == (len(answer.completion_ids), 20)
            if request.temperature == 0:
                (expected,) = local.complete_batch([request])
                assert answer.completion_ids == expected.completion_ids
                np.testing.assert_array_equal(answer.topk_ids, expected.topk_ids)
                np.testing.assert_allclose(answer.topk_logprobs, expected.topk_logprobs, atol=1e-4)
    assert answered == len(requests)


def test_everything_is_stated(made: list, prompts: list[Prompt]) -> None:
    """Prevent processed log-probabilities, another revision, or equal samples of one prompt."""
    requests = make_requests(prompts[:2], [0.7], 3, 0, 8)
    list(VLLMEngine(TARGET, "bfloat16", tensor_parallel_size=2).complete([requests]))
    arguments, sampling = made
    assert arguments["logprobs_mode"] == "raw_logprobs"
    assert arguments["model"] == "org/tiny-target"
    assert arguments["revision"] == arguments["tokenizer_revision"] == "abc"
    assert (arguments["dtype"], arguments["tensor_parallel_size"]) == ("bfloat16", 2)
    assert len({how.seed for how in sampling}) == 6
    assert all((how.temperature, how.top_p, how.top_k, how.min_p) == (0.7, 1.0, 0, 0.0) for how in sampling)


def test_without_vllm_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevent a traceback where a package is missing."""
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(InputError, match="pip install vllm"):
        VLLMEngine(TARGET, "auto")
