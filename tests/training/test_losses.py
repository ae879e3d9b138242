"""Losses beyond their values, which `test_trainers` computes by hand, and the head in pieces."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from transformers import Gemma2Config, Gemma2ForCausalLM

from drafter_trainer.errors import InputError
from drafter_trainer.training import head as head_module
from drafter_trainer.training import losses
from drafter_trainer.training.head import check_head, replaced_head, sum_losses
from drafter_trainer.training.losses import TOPK_LOSSES, cross_entropy, lk_hybrid, topk_kl, topk_tv
from tests.training.conftest import make_draft_model

TOKENS, WIDTH, VOCABULARY = 37, 8, 50


def draw(seed: int, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(TOKENS, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def top(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    logprobs, ids = logits.log_softmax(dim=-1).topk(k, dim=-1)
    return ids, logprobs


def test_losses_are_computed_in_single_precision() -> None:
    """Prevent a softmax in half precision, where small differences of likely tokens vanish."""
    logits, labels = draw(0).bfloat16(), torch.arange(TOKENS)
    ids, logprobs = top(draw(1), 5)
    cases = [(cross_entropy, (labels,)), *((loss, (ids, logprobs)) for loss in TOPK_LOSSES.values())]
    for loss, given in cases:
        found, expected = loss(logits, *given), loss(logits.float(), *given)
        assert (found.dtype, found.shape) == (torch.float32, (TOKENS,))
        assert torch.equal(found, expected)
        assert loss(logits[:0], *(each[:0] for each in given)).shape == (0,)  # every completion was cut off


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
    ids, logprobs = top(certain, 20)
    assert logprobs.min() < -1000
    torch.testing.assert_close(topk_kl(certain, ids, logprobs), torch.zeros(2), atol=1e-4, rtol=0)
    assert (topk_kl(certain.roll(1, dims=-1), ids, logprobs) > 100).all()


def make_case(dtype: torch.dtype = torch.float32, bias: bool = False, tokens: int = TOKENS) -> tuple:
    torch.manual_seed(0)
    hidden = torch.randn(tokens, WIDTH, dtype=dtype, requires_grad=True)
    return hidden, torch.nn.Linear(WIDTH, VOCABULARY, bias=bias, dtype=dtype), torch.randint(0, VOCABULARY, (tokens,))


def at_once(hidden: torch.Tensor, head: torch.nn.Linear, labels: torch.Tensor) -> torch.Tensor:
    """Compute the same sum from all logits."""
    return F.cross_entropy(head(hidden).float(), labels, reduction="sum")


def in_pieces(
    hidden: torch.Tensor, head: torch.nn.Linear, labels: torch.Tensor, note: Callable = lambda logits: None
) -> torch.Tensor:
    def token_losses(logits: torch.Tensor, place: slice) -> torch.Tensor:
        note(logits)
        return F.cross_entropy(logits.float(), labels[place], reduction="none")

    return sum_losses(hidden, head, token_losses)


@pytest.mark.parametrize(("at_a_time", "bias"), [(1, False), (5, True), (TOKENS, False), (1000, True)])
def test_pieces_give_the_same_sum_and_gradients(monkeypatch: pytest.MonkeyPatch, at_a_time: int, bias: bool) -> None:
    """Prevent a token that is left out or counted twice at the edge of a piece, and memory that grows with tokens."""
    monkeypatch.setattr(head_module, "_LOGITS_AT_ONCE", at_a_time * VOCABULARY)
    hidden, head, labels = make_case(bias=bias)
    inputs = (hidden, *head.parameters())
    sizes: list[int] = []
    whole = at_once(hidden, head, labels)
    pieces = in_pieces(hidden, head, labels, lambda logits: sizes.append(len(logits)))
    assert max(sizes) == min(at_a_time, TOKENS)
    assert sum(sizes) == TOKENS
    torch.testing.assert_close(pieces, whole)
    with torch.no_grad():
        torch.testing.assert_close(in_pieces(hidden, head, labels), whole)
    # The sum is multiplied by a factor: the mean over a global batch.
    for one, other in zip(torch.autograd.grad(0.3 * pieces, inputs), torch.autograd.grad(0.3 * whole, inputs)):
        torch.testing.assert_close(one, other)


def test_a_frozen_head_passes_the_gradient_on() -> None:
    """Prevent a gradient of the head's size from being made for a head that is not trained."""
    hidden, head, labels = make_case(bias=True)
    head.requires_grad_(False)
    in_pieces(hidden, head, labels).backward()
    expected = torch.autograd.grad(at_once(hidden, head, labels), hidden)[0]
    torch.testing.assert_close(hidden.grad, expected)
    assert head.weight.grad is None


def test_many_pieces_in_half_precision_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevent the head's gradient from being rounded to bf16 after each of many pieces."""
    monkeypatch.setattr(head_module, "_LOGITS_AT_ONCE", VOCABULARY)
    hidden, head, labels = make_case(torch.bfloat16, tokens=600)
    (gradient,) = torch.autograd.grad(in_pieces(hidden, head, labels), head.weight)
    exact = make_case(tokens=600)[1]
    exact.weight.data = head.weight.detach().float()
    (expected,) = torch.autograd.grad(at_once(hidden.detach().float(), exact, labels), exact.weight)
    assert gradient.dtype == torch.bfloat16
    # Rounded once it is off by 0.0024 of its length, rounded after each piece by 0.037.
    assert (gradient.float() - expected).norm() < 0.005 * expected.norm()


def test_the_head_is_the_models_own_again() -> None:
    """Prevent a drafter that goes on giving losses for logits, also where the forward fails."""
    model, ids = make_draft_model(), torch.ones(1, 3, dtype=torch.long)
    before = model(input_ids=ids).logits
    with replaced_head(model, lambda hidden: hidden.sum()):
        assert model(input_ids=ids).logits.shape == ()
    with pytest.raises(ZeroDivisionError), replaced_head(model, lambda hidden: 1 / 0):
        model(input_ids=ids)
    torch.testing.assert_close(model(input_ids=ids).logits, before)


def test_logits_that_are_capped_after_the_head_are_rejected() -> None:
    """Prevent a drafter from being trained with another q than the one that it drafts with."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 20, "head_dim": 8}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1}
    check_head(Gemma2ForCausalLM(Gemma2Config(**sizes, final_logit_softcapping=None)))
    with pytest.raises(InputError, match="gemma2 caps or scales its logits after the head"):
        check_head(Gemma2ForCausalLM(Gemma2Config(**sizes, final_logit_softcapping=0.5)))


def test_mixed_precision_multiplies_in_bf16_and_keeps_fp32_gradients() -> None:
    """Prevent the head from running in fp32 where the rest of the drafter runs in bf16, or the reverse."""
    hidden, head, labels = make_case()
    dtypes = []
    with torch.autocast("cpu", torch.bfloat16):
        total = in_pieces(hidden, head, labels, lambda logits: dtypes.append(logits.dtype))
    gradients = torch.autograd.grad(total, (hidden, head.weight))
    expected = torch.autograd.grad(at_once(hidden, head, labels), (hidden, head.weight))
    assert dtypes == [torch.bfloat16]
    for one, other in zip(gradients, expected):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, atol=0.05, rtol=0.05)
