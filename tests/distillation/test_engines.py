"""The engine that makes the target answer, and what it notes on the way."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from drafter_trainer.distillation.engines import TransformersEngine
from drafter_trainer.distillation.prompts import Prompt
from drafter_trainer.distillation.requests import Request
from tests.distillation.conftest import REQUEST

LENGTH = 24


def ask(prompts: list[Prompt], temperature: float, seed: int = 0, max_new_tokens: int = LENGTH) -> list[Request]:
    """Make one batch."""
    return [
        replace(
            REQUEST, prompt_ids=prompt.prompt_ids, temperature=temperature, seed=seed, max_new_tokens=max_new_tokens
        )
        for prompt in prompts
    ]


def logprobs_of(model: PreTrainedModel, request: Request, response_ids: list[int]) -> torch.Tensor:
    """Score an answer alone, without padding and without cache: `(tokens, vocabulary)` at temperature 1."""
    ids = torch.tensor([[*request.prompt_ids, *response_ids]])
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits[0]
    return logits[len(request.prompt_ids) - 1 : -1].double().log_softmax(dim=-1)


@pytest.fixture
def engine(target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> TransformersEngine:
    """An engine over the tiny target, whose generation configuration a test may set."""
    return TransformersEngine(target_model, tokenizer.pad_token_id)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_end_with_the_end_token_only_where_the_target_ended(
    target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt], temperature: float
) -> None:
    """Prevent an end token that the limit, not the target, put there, a lost one, and padding kept as an answer."""
    free = TransformersEngine(target_model, tokenizer.pad_token_id).answer(ask(prompts, temperature))
    # What some answers say in their middle is made an end token beside the usual one.
    end_id = free[0].response_ids[LENGTH // 2]
    target_model.generation_config.eos_token_id = [tokenizer.eos_token_id, end_id]
    engine = TransformersEngine(target_model, tokenizer.pad_token_id)
    answers = engine.answer(ask(prompts, temperature))
    assert {answer.finish_reason for answer in answers} == {"stop", "length"}
    for answer, whole in zip(answers, free):
        stops = answer.finish_reason == "stop"
        ends = [number for number, token in enumerate(whole.response_ids) if token in engine.eos_ids]
        assert stops == bool(ends)
        length = ends[0] + 1 if stops else LENGTH
        assert answer.response_ids == whole.response_ids[:length]
        assert (answer.response_ids[-1] in engine.eos_ids) == stops
        assert len(answer.topk_ids) == len(answer.topk_logprobs) == length


def misfit(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """Compute Pearson's chi-square with the outcomes that are expected less than five times merged."""
    expected = probabilities * counts.sum()
    rare = expected < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    return float(((counts - expected) ** 2 / expected).sum() / (len(counts) - 1))


@pytest.mark.parametrize(("temperature", "other"), [(0.7, 1.0), (1.0, 0.7)])
def test_sampling_follows_the_temperature_and_nothing_else(
    engine: TransformersEngine, prompts: list[Prompt], temperature: float, other: float
) -> None:
    """Prevent settings of the target's own generation_config.json from narrowing what is sampled."""
    config = engine.model.generation_config
    config.do_sample = True
    config.temperature, config.top_k, config.top_p, config.typical_p = 0.1, 5, 0.1, 0.1
    config.min_p, config.top_h, config.epsilon_cutoff, config.eta_cutoff = 0.9, 0.1, 0.1, 0.1
    config.repetition_penalty, config.no_repeat_ngram_size = 3.0, 1
    # The statistic is fixed by the seed: 1 is expected, and 1.6 is rarer than one in ten thousand.
    request = ask(prompts[:1], temperature, max_new_tokens=1)[0]
    answers = engine.answer([replace(request, seed=seed) for seed in range(4000)])
    vocabulary = engine.model.config.vocab_size
    counts = np.bincount([answer.response_ids[0] for answer in answers], minlength=vocabulary)
    logprobs = logprobs_of(engine.model, request, [0])[0]
    assert misfit(counts, (logprobs / temperature).softmax(dim=-1).numpy()) < 1.6
    assert misfit(counts, (logprobs / other).softmax(dim=-1).numpy()) > 5
