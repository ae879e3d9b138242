"""Engines in this process: sampling, and vLLM by a stand-in with its documented interface."""

import sys
from dataclasses import make_dataclass, replace
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from drafter_trainer.distillation import engines
from drafter_trainer.distillation.engines import TransformersEngine, VLLMEngine
from drafter_trainer.distillation.prompts import Prompt
from drafter_trainer.distillation.requests import Request
from drafter_trainer.errors import InputError
from tests.decoding.lossless import IMPROBABLE, chance_of_these_counts
from tests.distillation.conftest import REQUEST, TARGET, make_requests


def logprobs_of(model: PreTrainedModel, request: Request, response_ids: list[int]) -> torch.Tensor:
    """Score one completion without padding and cache: `(tokens, vocabulary)` at temperature 1."""
    ids = torch.tensor([[*request.prompt_ids, *response_ids]])
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits[0]
    return logits[len(request.prompt_ids) - 1 : -1].double().log_softmax(dim=-1)


@pytest.mark.parametrize(("temperature", "other"), [(0.7, 1.0), (1.0, 0.7)])
def test_sampling_follows_the_temperature_and_nothing_else(engine, prompts, temperature, other) -> None:
    """Prevent settings of the target's own generation_config.json from changing the sampled distribution."""
    config = engine.model.generation_config
    config.do_sample = True
    config.temperature, config.top_k, config.top_p, config.typical_p = 0.1, 5, 0.1, 0.1
    config.min_p, config.top_h, config.epsilon_cutoff, config.eta_cutoff = 0.9, 0.1, 0.1, 0.1
    config.repetition_penalty, config.no_repeat_ngram_size = 3.0, 1
    request = replace(REQUEST, prompt_ids=prompts[0].prompt_ids, temperature=temperature, max_new_tokens=1)
    completions = engine.complete_batch([replace(request, seed=seed) for seed in range(4000)])
    vocabulary = engine.model.config.vocab_size
    counts = torch.bincount(
        torch.tensor([completion.completion_ids[0] for completion in completions]), minlength=vocabulary
    )
    logprobs = logprobs_of(engine.model, request, [0])[0]
    assert chance_of_these_counts(counts, (logprobs / temperature).softmax(dim=-1)) > IMPROBABLE
    assert chance_of_these_counts(counts, (logprobs / other).softmax(dim=-1)) < IMPROBABLE / 1000


# Of vLLM's class of this name, without defaults: each has to be stated.
NAMES = "n temperature top_p top_k min_p repetition_penalty presence_penalty frequency_penalty seed max_tokens"
NAMES += " stop_token_ids logprobs detokenize"
SamplingParams = make_dataclass("SamplingParams", NAMES.split(), kw_only=True)


@pytest.fixture
def made(target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> list:
    """Replace vLLM by a stand-in; return the arguments of its `LLM` and `generate`."""
    made: list[Any] = []
    engine = TransformersEngine(target_model, tokenizer.pad_token_id)

    class LLM:
        def __init__(self, **given: Any) -> None:
            made.append(given)

        def generate(self, prompts: list[dict], sampling: list[SamplingParams], use_tqdm: bool) -> list[Any]:
            assert len(prompts) == len(sampling)
            made.append(sampling)
            return [self._complete(prompt["prompt_token_ids"], how) for prompt, how in zip(prompts, sampling)]

        def _complete(self, ids: list[int], how: SamplingParams) -> Any:
            given = {"temperature": how.temperature, "seed": how.seed, "max_new_tokens": how.max_tokens}
            (completion,) = engine.complete_batch([replace(REQUEST, prompt_ids=tuple(ids), **given)])
            logprobs = [
                # The sampled token comes first, and in addition where it is none of the 20.
                {token: SimpleNamespace(logprob=-50.0)} | {i: SimpleNamespace(logprob=p) for i, p in zip(top, values)}
                for token, top, values in zip(
                    completion.completion_ids, completion.topk_ids.tolist(), completion.topk_logprobs.tolist()
                )
            ]
            output = SimpleNamespace(
                token_ids=completion.completion_ids, logprobs=logprobs, finish_reason=completion.finish_reason
            )
            return SimpleNamespace(outputs=[output])

    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SamplingParams
    monkeypatch.setitem(sys.modules, "vllm", module)
    return made


def test_completions_are_those_of_the_local_target(made, target_model, tokenizer, prompts, monkeypatch) -> None:
    """Prevent completions under a wrong key, and a sampled token among the most likely ones."""
    monkeypatch.setattr(engines, "_VLLM_BATCH", 5)
    requests = make_requests(prompts, [0.0, 1.0], 1, 0, 8)
    local = TransformersEngine(target_model, tokenizer.pad_token_id)
    answered = 0
    for group, completions in VLLMEngine(TARGET, "float32").complete(requests.batches(4)):
        for request, completion in zip(group, completions):
            answered += 1
            assert completion.topk_ids.shape == completion.topk_logprobs.shape == (len(completion.completion_ids), 20)
            if request.temperature == 0:
                (expected,) = local.complete_batch([request])
                assert completion.completion_ids == expected.completion_ids
                np.testing.assert_array_equal(completion.topk_ids, expected.topk_ids)
                np.testing.assert_allclose(completion.topk_logprobs, expected.topk_logprobs, atol=1e-4)
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
