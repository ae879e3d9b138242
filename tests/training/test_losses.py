"""The losses beyond their values, which `test_trainers` computes by hand: precision, gradients and extremes."""

from collections.abc import Callable

import pytest
import torch

from drafter_trainer.training import losses
from drafter_trainer.training.losses import TOPK_LOSSES, cross_entropy, lk_hybrid, topk_kl, topk_tv

TOKENS, VOCABULARY = 7, 40


def draw(seed: int, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(TOKENS, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def top(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    logprobs, ids = logits.log_softmax(dim=-1).topk(k, dim=-1)
    return ids, logprobs


def test_losses_are_computed_in_single_precision() -> None:
    """Prevent a softmax in half precision, where small differences of likely tokens vanish."""
    logits, labels = draw(0).bfloat16(), torch.arange(TOKENS)
    ids, logprobs = top(draw(1), 5)
    for loss, exact in (
        (cross_entropy(logits, labels), cross_entropy(logits.float(), labels)),
        *((loss(logits, ids, logprobs), loss(logits.float(), ids, logprobs)) for loss in TOPK_LOSSES.values()),
    ):
        assert loss.dtype == torch.float32
        assert loss.shape == (TOKENS,)
        torch.testing.assert_close(loss, exact, rtol=0, atol=0)


def test_the_weight_of_the_hybrid_is_a_constant() -> None:
    """Prevent a gradient that goes through the weight, which would move it instead of the drafter."""
    ids, logprobs = top(draw(0), 5)
    draft_logits = draw(1).requires_grad_()
    kl, tv = topk_kl(draft_logits, ids, logprobs), topk_tv(draft_logits, ids, logprobs)
    weight = torch.exp(-3 * (1 - tv.detach()))
    (gradient,) = torch.autograd.grad(lk_hybrid(draft_logits, ids, logprobs).sum(), draft_logits)
    (expected,) = torch.autograd.grad((weight * kl + (1 - weight) * tv).sum(), draft_logits)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("loss", TOPK_LOSSES.values(), ids=TOPK_LOSSES)
def test_gradient_is_that_of_a_plain_softmax(loss: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevent a loss that can be computed but not learned from: the softmax has a backward pass written by hand."""
    draft_logits, (ids, logprobs) = draw(1).requires_grad_(), top(draw(0), 5)
    ids[2, 1] = -1
    (gradient,) = torch.autograd.grad(loss(draft_logits, ids, logprobs).sum(), draft_logits)
    monkeypatch.setattr(losses, "_log_q", lambda logits, ids: logits.log_softmax(-1).gather(-1, ids.clamp(min=0)))
    (expected,) = torch.autograd.grad(loss(draft_logits, ids, logprobs).sum(), draft_logits)
    torch.testing.assert_close(gradient, expected)
    assert gradient.abs().max() > 0.01


@pytest.mark.parametrize("excess", [0.0, 1e-3])
def test_probabilities_that_round_to_more_than_one_stay_finite(excess: float) -> None:
    """Prevent the logarithm of a rest that fp16 rounding made zero or negative from ending the training in NaN."""
    # All of the probability lies within the top k, of the drafter too.
    draft_logits = torch.full((1, VOCABULARY), -200.0)
    draft_logits[0, :4] = torch.tensor([3.0, 2.0, 1.0, 0.0])
    draft_logits.requires_grad_()
    ids = torch.tensor([[0, 1, 2, 3]])
    logprobs = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).add(excess).log().half()
    assert (logprobs.float().exp().sum() > 1) == (excess > 0)
    kl = topk_kl(draft_logits, ids, logprobs)
    kl.sum().backward()
    assert kl.isfinite().all()
    assert draft_logits.grad.isfinite().all()
    p, log_q = logprobs.float().exp(), draft_logits.detach().log_softmax(dim=-1)[:, :4]
    torch.testing.assert_close(kl.detach(), (p * (p.log() - log_q)).sum(dim=-1), atol=2e-3, rtol=0)


def test_a_certain_target_and_a_certain_drafter_stay_finite() -> None:
    """Prevent probabilities of exactly 0 and 1 from giving NaN."""
    certain = torch.full((2, VOCABULARY), -1000.0)
    certain[:, 3] = 1000.0
    wrong = certain.roll(1, dims=-1)
    ids, logprobs = top(certain, 20)
    assert logprobs.min() < -1000
    right = topk_kl(certain, ids, logprobs)
    torch.testing.assert_close(right, torch.zeros(2), atol=1e-4, rtol=0)
    assert (topk_kl(wrong, ids, logprobs) > 100).all()


def test_no_tokens_give_no_losses() -> None:
    """Prevent a batch whose completions were cut off by the length limit from ending the training."""
    empty = torch.empty(0, VOCABULARY)
    assert cross_entropy(empty, torch.empty(0, dtype=torch.long)).shape == (0,)
    for topk_loss in TOPK_LOSSES.values():
        assert topk_loss(empty, torch.empty(0, 5, dtype=torch.long), torch.empty(0, 5)).shape == (0,)
