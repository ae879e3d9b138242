"""Every figure of acceptance, against what can be counted by hand."""

import math

import pytest
import torch

from drafter_trainer.decoding.metrics import (
    Round,
    acceptance_by_position,
    acceptance_rate,
    alpha,
    expected_alpha,
    greedy_agreement,
    is_looping,
    mean_accepted_tokens,
)

# Four tokens drafted, of which 4, 1 and 0 were accepted; a round cut after 2 of 3; a round without a draft.
ROUNDS = [
    Round(4, 4, rejected=False),
    Round(4, 1, rejected=True),
    Round(4, 0, rejected=True),
    Round(3, 2, rejected=False),
    Round(0, 0, rejected=False),
]


def test_acceptance_is_counted_by_hand() -> None:
    """Another denominator gives another acceptance: rounds, tokens behind a rejection, positions not reached."""
    assert acceptance_rate(ROUNDS) == 7 / 15
    assert alpha(ROUNDS) == 7 / 9
    assert alpha([Round(9 * round_.drafted, round_.accepted, round_.rejected) for round_ in ROUNDS]) == 7 / 9
    assert acceptance_by_position(ROUNDS) == [3 / 5, 2 / 5, 1 / 5, 1 / 5]
    assert acceptance_by_position([Round(3, 1, rejected=True)]) == [1.0, 0.0, 0.0]


def test_nothing_is_none_and_not_zero() -> None:
    """A zero where nothing was drafted would be published as a drafter that is never right."""
    plain = 3 * [Round(0, 0, rejected=False)]
    for rounds in ([], plain):
        assert acceptance_rate(rounds) is None
        assert alpha(rounds) is None
        assert acceptance_by_position(rounds) == []
    assert alpha([Round(3, 0, rejected=False)]) is None  # cut before anything was judged
    assert acceptance_rate([Round(3, 0, rejected=False)]) == 0
    assert mean_accepted_tokens(0, 0) is None


def top(probabilities: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep the k most likely ids, as they are stored: with their log probabilities in fp16."""
    logprobs, ids = probabilities.log().topk(k, dim=-1)
    return ids.int(), logprobs.half()


def test_expected_alpha_in_closed_form() -> None:
    """By hand, q = (1/2, 1/4, 1/8, 1/8), p = (1/4, 1/4, 1/2, 0): renormalized, a stored top k would claim more."""
    q = torch.tensor([[0.5, 0.25, 0.125, 0.125]])
    p = torch.tensor([[0.5, 0.25, 0.25]])
    ids = torch.tensor([[2, 0, 1]])
    assert expected_alpha(q.log(), ids, p.log()).item() == pytest.approx(0.125 + 0.25 + 0.25)
    assert expected_alpha(q.log(), ids[:, :2], p[:, :2].log()).item() == pytest.approx(0.125 + 0.25)
    assert expected_alpha(q.log() + 5, ids[:, :2], p[:, :2].log()).item() == pytest.approx(0.125 + 0.25)
    disjoint = torch.tensor([[50.0, 0.0, 0.0, 0.0]])  # padding among the ids, or a floor under q, would lift it
    assert expected_alpha(disjoint, torch.tensor([[1, 2]]), torch.tensor([[0.5, 0.5]]).log()).item() < 1e-20


@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_expected_alpha_stays_a_chance(scale: float, dtype: torch.dtype) -> None:
    """Half precision in the softmax or in the sum would give chances above 1, or NaN."""
    generator = torch.Generator().manual_seed(3)
    target_logits = scale * torch.randn(40, 300, generator=generator)
    p = target_logits.softmax(-1)
    noise = torch.randn(40, 300, generator=generator)
    for draft_logits in (target_logits, target_logits + noise, -target_logits):
        values = expected_alpha(draft_logits.to(dtype), *top(p, 20))
        assert values.dtype == torch.float32
        assert values.shape == (40,)
        assert bool((values >= 0).all())
        assert bool((values <= 1 + 1e-6).all())


def test_greedy_agreement_compares_the_best_of_both() -> None:
    """Finding the drafter's token anywhere in the top k would call almost everything an agreement."""
    logits = torch.tensor([[0.0, 3.0, 1.0], [0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    ids = torch.tensor([[1, 2], [2, 1], [0, 1]], dtype=torch.int32)
    agreement = greedy_agreement(logits, ids)
    assert agreement.tolist() == [True, False, True]
    assert agreement.dtype == torch.bool


TEXT = [(7 * number * number + 3 * number) % 1009 for number in range(200)]


def test_text_is_not_looping() -> None:
    """Ordinary outputs left out of the figures would leave nothing to publish."""
    assert len(set(TEXT[:150])) > 100
    assert not any(is_looping(TEXT[:length]) for length in range(len(TEXT) + 1))


@pytest.mark.parametrize("period", [1, 2, 3, 4, 5, 8, 13, 31, 32])
def test_loop_is_found_at_its_fourth_turn(period: int) -> None:
    """A loop counts from its fourth turn and 16 tokens on: one less must not, or any list of items would be a loop."""
    needed = max(4 * period, 16)
    turns = math.ceil(needed / period) + 1
    loop = (list(range(2000, 2000 + period)) * turns)[:needed]
    assert is_looping(TEXT + loop)
    assert is_looping(loop)
    assert not is_looping(TEXT + loop[1:])
    assert not is_looping(loop[1:])


@pytest.mark.parametrize(
    ("output", "looping"),
    [
        # The length limit cuts a loop anywhere, seldom at the end of a turn.
        *(
            pytest.param(TEXT + ([1, 2, 3, 4, 5] * 6)[:length], True, id=f"cut at {length}")
            for length in range(20, 31)
        ),
        # Four paragraphs that are alike are long enough to be text.
        pytest.param(list(range(33)) * 4, False, id="long period"),
        pytest.param(TEXT + list(range(40)) * 8, False, id="long period behind text"),
        # Only an output that ends in a loop would have gone on with it.
        pytest.param([5] * 60 + [6], False, id="left"),
        pytest.param([5, 6] * 30 + TEXT[:20], False, id="left for text"),
        # An answer of a few equal tokens, or of none, is an answer.
        *(pytest.param([5] * length, False, id=f"{length} tokens") for length in (0, 1, 4, 15)),
    ],
)
def test_loop_is_what_the_output_ends_in(output: list[int], looping: bool) -> None:
    """A loop that is not found stands in the figures; text that is taken for one is left out of them."""
    assert is_looping(output) == looping
