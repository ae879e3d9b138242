"""Drafting changes the time, not the text: the same greedy output, the same distribution of samples."""

import pytest
from transformers import PreTrainedModel

from drafter_trainer.decoding.metrics import alpha
from drafter_trainer.decoding.rounds import decode
from tests.decoding.drafts import (
    agreeing,
    check_chain,
    disagreeing,
    noisy_chain,
    partly_agreeing,
    set_draft_length,
    sliding_model,
)
from tests.decoding.lossless import (
    IMPROBABLE,
    PROMPTS,
    TOY_DRAFT_LENGTH,
    TOY_PROMPT,
    TOY_TOKENS,
    WRONG_SAMPLES,
    chance_of_these_answers,
    check_greedy,
    check_sampled,
    exact_chances,
    make_toy_target,
    sample,
)

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
    drafter, rounds = make_drafter(target_model), []
    for prompt, draft_length in zip(PROMPTS, (1, 2, 5, 8)):
        rounds += check_greedy(target_model, set_draft_length(drafter, draft_length), [prompt])
    assert low <= alpha(rounds) <= high
    # The cache of a sliding window must restore the entries that a rejected draft replaced.
    sliding = sliding_model(100, ["sliding_attention", "full_attention"] * 2)
    check_greedy(sliding, set_draft_length(make_drafter(sliding), 5), [list(range(3, 20))], 24)


# Sampling: the distribution, on a vocabulary that is small enough to compute it.


@pytest.mark.parametrize("temperature", [1.0, 1.4])
def test_sampled_steps_have_the_targets_distribution(temperature: float) -> None:
    """A verifier that accepts too much or too little changes the distribution, which no single output shows."""
    check_chain({"assistant_model": set_draft_length(noisy_chain(1.5), 3)}, temperature, 500)


def test_sampled_answers_with_prompt_lookup_have_the_targets_distribution(toy_target: PreTrainedModel) -> None:
    """A copied token has no probability of its own: taken for a sampled one, it would be accepted too seldom."""
    check_sampled(toy_target, {"prompt_lookup_num_tokens": TOY_DRAFT_LENGTH})


def test_sampling_settings_override_the_targets(toy_target: PreTrainedModel) -> None:
    """A target's own top-k or top-p would change the distribution at every temperature."""
    other = make_toy_target()
    other.generation_config.update(do_sample=True, top_k=1, top_p=0.01, temperature=0.01, repetition_penalty=5.0)
    answers, _ = sample(other, {}, 1.0, WRONG_SAMPLES)
    assert chance_of_these_answers(answers, exact_chances(toy_target, 1.0)) > IMPROBABLE
    greedy, expected = (decode(model, TOY_PROMPT, {}, 0.0, 0, TOY_TOKENS) for model in (other, toy_target))
    assert greedy.output_ids == expected.output_ids
