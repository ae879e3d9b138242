"""The engine that makes the target answer, and what it notes on the way."""

from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from drafter_trainer.distillation.requests import Request
from tests.decoding.lossless import IMPROBABLE, chance_of_these_counts
from tests.distillation.conftest import REQUEST


def logprobs_of(model: PreTrainedModel, request: Request, response_ids: list[int]) -> torch.Tensor:
    """Score an answer alone, without padding and without cache: `(tokens, vocabulary)` at temperature 1."""
    ids = torch.tensor([[*request.prompt_ids, *response_ids]])
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits[0]
    return logits[len(request.prompt_ids) - 1 : -1].double().log_softmax(dim=-1)


@pytest.mark.parametrize(("temperature", "other"), [(0.7, 1.0), (1.0, 0.7)])
def test_sampling_follows_the_temperature_and_nothing_else(engine, prompts, temperature, other) -> None:
    """Prevent settings of the target's own generation_config.json from narrowing what is sampled."""
    config = engine.model.generation_config
    config.do_sample = True
    config.temperature, config.top_k, config.top_p, config.typical_p = 0.1, 5, 0.1, 0.1
    config.min_p, config.top_h, config.epsilon_cutoff, config.eta_cutoff = 0.9, 0.1, 0.1, 0.1
    config.repetition_penalty, config.no_repeat_ngram_size = 3.0, 1
    request = replace(REQUEST, prompt_ids=prompts[0].prompt_ids, temperature=temperature, max_new_tokens=1)
    answers = engine.complete_batch([replace(request, seed=seed) for seed in range(4000)])
    vocabulary = engine.model.config.vocab_size
    counts = torch.bincount(torch.tensor([answer.completion_ids[0] for answer in answers]), minlength=vocabulary)
    logprobs = logprobs_of(engine.model, request, [0])[0]
    assert chance_of_these_counts(counts, (logprobs / temperature).softmax(dim=-1)) > IMPROBABLE
    assert chance_of_these_counts(counts, (logprobs / other).softmax(dim=-1)) < IMPROBABLE / 1000
