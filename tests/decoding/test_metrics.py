"""The acceptance metrics, compared with values computed by hand."""

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

# Four tokens drafted, of which 4, 1 and 0 were accepted; a round that ended after 2 of 3; a round without a draft.
ROUNDS = [Round(4, 4, False), Round(4, 1, True), Round(4, 0, True), Round(3, 2, False), Round(0, 0, False)]


def test_acceptance_by_hand() -> None:
    """Another denominator gives another acceptance: rounds, tokens after a rejection, unreached positions."""
    assert acceptance_rate(ROUNDS) == 7 / 15
    assert alpha(ROUNDS) == 7 / 9
    assert alpha([Round(9 * round_.drafted, round_.accepted, round_.rejected) for round_ in ROUNDS]) == 7 / 9
    assert acceptance_by_position(ROUNDS) == [3 / 5, 2 / 5, 1 / 5, 1 / 5]
    assert acceptance_by_position([Round(3, 1, rejected=True)]) == [1.0, 0.0, 0.0]


def test_no_drafts_give_none_and_not_zero() -> None:
    """A zero without drafts would be published as a drafter that is never right."""
    for rounds in ([], 3 * [Round(0, 0, rejected=False)]):
        assert acceptance_rate(rounds) is None
        assert alpha(rounds) is None
        assert acceptance_by_position(rounds) == []
    assert alpha([Round(3, 0, rejected=False)]) is None  # ended before any token was judged
    assert acceptance_rate([Round(3, 0, rejected=False)]) == 0
    assert mean_accepted_tokens(0, 0) is None


def test_expected_alpha_in_closed_form() -> None:
    """By hand, q = (1/2, 1/4, 1/8, 1/8), p = (1/4, 1/4, 1/2, 0): a renormalized top k would be too high."""
    q = torch.tensor([[0.5, 0.25, 0.125, 0.125]])
    p = torch.tensor([[0.5, 0.25, 0.25]])
    ids = torch.tensor([[2, 0, 1]])
    assert expected_alpha(q.log(), ids, p.log()).item() == pytest.approx(0.125 + 0.25 + 0.25)
    assert expected_alpha(q.log(), ids[:, :2], p[:, :2].log()).item() == pytest.approx(0.125 + 0.25)
    assert expected_alpha(q.log() + 5, ids[:, :2], p[:, :2].log()).item() == pytest.approx(0.125 + 0.25)
    disjoint = torch.tensor([[50.0, 0.0, 0.0, 0.0]])  # padding among the ids, or a minimum of q, would increase it
    assert expected_alpha(disjoint, torch.tensor([[1, 2]]), torch.tensor([[0.5, 0.5]]).log()).item() < 1e-20


@pytest.mark.parametrize(("scale", "dtype"), [(0.1, torch.float32), (3.0, torch.bfloat16), (30.0, torch.float16)])
def test_expected_alpha_stays_a_probability(scale: float, dtype: torch.dtype) -> None:
    """Half precision in the softmax or in the sum would give probabilities above 1, or NaN."""
    generator = torch.Generator().manual_seed(3)
    target_logits, noise = (scale * torch.randn(40, 300, generator=generator) for _ in range(2))
    logprobs, ids = target_logits.log_softmax(-1).topk(20, dim=-1)
    for draft_logits in (target_logits, target_logits + noise, -target_logits):
        values = expected_alpha(draft_logits.to(dtype), ids.int(), logprobs.half())  # the dtypes of stored rows
        assert (values.dtype, values.shape) == (torch.float32, (40,))
        assert bool(((values >= 0) & (values <= 1 + 1e-6)).all())


def test_greedy_agreement_compares_the_most_likely_tokens() -> None:
    """Finding the drafter's token anywhere in the top k would call almost everything an agreement."""
    logits = torch.tensor([[0.0, 3.0, 1.0], [0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    ids = torch.tensor([[1, 2], [2, 1], [0, 1]], dtype=torch.int32)
    assert greedy_agreement(logits, ids).tolist() == [True, False, True]


TEXT = [(7 * number * number + 3 * number) % 1009 for number in range(200)]


@pytest.mark.parametrize("period", [1, 2, 3, 4, 5, 8, 13, 31, 32])
def test_loop_needs_four_repetitions_and_sixteen_tokens(period: int) -> None:
    """With one token less it must not count, or any list of items would be a loop."""
    needed = max(4 * period, 16)
    turns = math.ceil(needed / period) + 1
    loop = (list(range(2000, 2000 + period)) * turns)[:needed]
    for text in ([], TEXT):
        assert is_looping(text + loop)
        assert not is_looping(text + loop[1:])


@pytest.mark.parametrize(
    ("output", "looping"),
    [
        # The length limit ends a loop anywhere, seldom at the end of a repetition.
        *((TEXT + ([1, 2, 3, 4, 5] * 6)[:length], True) for length in (20, 23, 30)),
        *((TEXT[:length], False) for length in (1, 20, 100, 200)),
        (list(range(33)) * 4, False),  # four equal paragraphs are long enough to be text
        (TEXT + list(range(40)) * 8, False),
        ([5] * 60 + [6], False),  # only a loop at the end would have continued
        ([5, 6] * 30 + TEXT[:20], False),
        *(([5] * length, False) for length in (0, 1, 4, 15)),  # a few equal tokens may be a completion
    ],
)
def test_loop_is_at_the_end_of_the_output(output: list[int], looping: bool) -> None:
    """An undetected loop distorts the figures, and text that is taken for a loop is left out of them."""
    assert is_looping(output) == looping
