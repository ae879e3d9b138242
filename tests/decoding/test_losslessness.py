"""Drafting changes the time, not the text: the same greedy output, the same distribution of samples."""

from typing import Any

import pytest
from transformers import PreTrainedModel

from drafter_trainer.decoding.metrics import Round, alpha
from drafter_trainer.decoding.rounds import decode
from drafter_trainer.decoding.sampling import sampling_arguments
from tests.decoding.drafts import agreeing, disagreeing, partly_agreeing, set_draft_length, sliding_model
from tests.decoding.lossless import (
    IMPROBABLE,
    PROMPTS,
    SAMPLES,
    TOY_DRAFT_LENGTH,
    TOY_PROMPT,
    TOY_TOKENS,
    WRONG_SAMPLES,
    chance_of_these_answers,
    check_greedy,
    check_sampled,
    exact_chances,
    sample,
)

DRAFT_LENGTHS = [1, 2, 5, 8]


# Greedy: token for token, in fp32.


@pytest.mark.parametrize(
    ("make_drafter", "low", "high"),
    [
        pytest.param(disagreeing, 0.0, 0.0, id="never"),
        pytest.param(agreeing, 1.0, 1.0, id="always"),
        pytest.param(lambda target_model: partly_agreeing(target_model, 0.015), 0.2, 0.9, id="sometimes"),
    ],
)
def test_greedy_output_with_a_drafter(target_model, make_drafter, low, high) -> None:
    """A drafter must not decide a single token, however good it is."""
    drafter = make_drafter(target_model)
    for prompt in PROMPTS[:3]:
        rounds: list[Round] = []
        for draft_length in DRAFT_LENGTHS:
            rounds += check_greedy(target_model, set_draft_length(drafter, draft_length), [prompt], 14)
        assert low <= alpha(rounds) <= high
    # The cache of a sliding window must restore the entries that a rejected draft replaced.
    sliding = sliding_model(100, ["sliding_attention", "full_attention"] * 2)
    check_greedy(sliding, set_draft_length(make_drafter(sliding), 5), [list(range(3, 20))], 24)


# Sampling: the distribution, on a vocabulary that is small enough to compute it.


def toy_arguments(toy_target: PreTrainedModel, source: str) -> dict[str, Any]:
    if source == "prompt lookup":
        return {"prompt_lookup_num_tokens": TOY_DRAFT_LENGTH}
    drafter = partly_agreeing(toy_target, 0.25)
    return {"assistant_model": set_draft_length(drafter, TOY_DRAFT_LENGTH)}


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("source", ["drafter", "prompt lookup"])
def test_sampled_answers_have_the_targets_distribution(toy_target, source, temperature) -> None:
    """A verifier that accepts too much or too little changes the distribution, which no single output shows."""
    check_sampled(toy_target, toy_arguments(toy_target, source), temperature, SAMPLES)


def test_sampling_settings_override_the_targets(toy_target: PreTrainedModel) -> None:
    """A target's own top-k or top-p would change the distribution at every temperature."""
    own = toy_target.generation_config
    before = (own.do_sample, own.top_k, own.top_p, own.temperature, own.repetition_penalty)
    try:
        own.do_sample, own.top_k, own.top_p, own.temperature, own.repetition_penalty = True, 1, 0.01, 0.01, 5.0
        answers, _ = sample(toy_target, {}, 1.0, WRONG_SAMPLES)
        greedy = decode(toy_target, TOY_PROMPT, {}, 0.0, 0, TOY_TOKENS)
    finally:
        own.do_sample, own.top_k, own.top_p, own.temperature, own.repetition_penalty = before
    assert chance_of_these_answers(answers, exact_chances(toy_target, 1.0)) > IMPROBABLE
    assert greedy.output_ids == decode(toy_target, TOY_PROMPT, {}, 0.0, 0, TOY_TOKENS).output_ids
    assert sampling_arguments(0.0)["do_sample"] is False
    assert sampling_arguments(0.7)["temperature"] == 0.7
