"""Losses of drafters: pure, per token, unreduced, in fp32."""

import torch
import torch.nn.functional as F

from drafter_trainer.decoding.metrics import expected_alpha

_HYBRID_RATE = 3.0


def cross_entropy(draft_logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Compute -log q(label), per token: learning from the answer alone.

    Args:
        draft_logits (`torch.Tensor` of shape `(tokens, vocabulary)`): Unnormalised q.
        labels (`torch.Tensor` of shape `(tokens,)`): The target's tokens; -1, outside the draft vocabulary, costs 0.
    Returns:
        `torch.Tensor` of shape `(tokens,)`, in nats.
    """
    return torch.where(labels < 0, 0.0, -_log_q(draft_logits, labels[:, None])[:, 0])


def topk_kl(draft_logits: torch.Tensor, topk_ids: torch.Tensor, topk_logprobs: torch.Tensor) -> torch.Tensor:
    """Compute KL(p || q) with all ids outside the target's top k taken as one, per token.

    Σ p_i (log p_i - log q_i) over the k ids, plus the same term for the rest of the probability. Merging outcomes
    never raises a divergence, so this is a lower bound of the whole KL(p || q); it is zero exactly where q agrees
    with p on all k ids, and unlike a sum over the k ids alone it is never negative.

    Args:
        draft_logits (`torch.Tensor` of shape `(tokens, vocabulary)`): Unnormalised q.
        topk_ids (`torch.Tensor` of shape `(tokens, k)`): The target's most likely ids; -1, outside the draft
            vocabulary, counts to the rest.
        topk_logprobs (`torch.Tensor` of shape `(tokens, k)`): log p of them, in nats.
    Returns:
        `torch.Tensor` of shape `(tokens,)`, in nats.
    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv 1503.02531; the merged rest by the
        data-processing inequality
    """
    known = topk_ids >= 0
    log_p = topk_logprobs.float()
    log_q = _log_q(draft_logits, topk_ids)
    p, q = log_p.exp() * known, log_q.exp() * known
    inside = (p * (log_p - log_q)).sum(dim=-1)
    # Stored log-probabilities are fp16: their sum may pass 1 by a rounding, and an exact 0 has no logarithm.
    rest_p = (1 - p.sum(dim=-1)).clamp(min=1e-6)
    rest_q = (1 - q.sum(dim=-1)).clamp(min=1e-6)
    return inside + rest_p * (rest_p.log() - rest_q.log())


def topk_acceptance(draft_logits: torch.Tensor, topk_ids: torch.Tensor, topk_logprobs: torch.Tensor) -> torch.Tensor:
    """Compute -log Σ min(p, q), the surprise at a drafted token being accepted, per token.

    A small drafter cannot follow the target everywhere. KL makes it pay for every likely token that it misses, this
    loss for what is rejected alone: it may leave unlikely tokens out and be sure of the likely ones. The sum runs over
    the target's top k, as in `decoding.metrics.expected_alpha`.

    Args:
        draft_logits (`torch.Tensor` of shape `(tokens, vocabulary)`): Unnormalised q.
        topk_ids (`torch.Tensor` of shape `(tokens, k)`): The target's most likely ids; -1, outside the draft
            vocabulary, is never accepted. Where all of them are, nothing can be learned, and the loss is 0.
        topk_logprobs (`torch.Tensor` of shape `(tokens, k)`): log p of them, in nats.
    Returns:
        `torch.Tensor` of shape `(tokens,)`, in nats.
    Source: Samarin et al., "LK Losses: Direct Acceptance Rate Optimization for Speculative Decoding", arXiv 2602.23881
    """
    known = topk_ids >= 0
    log_q = _log_q(draft_logits, topk_ids)
    smaller = torch.minimum(topk_logprobs.float(), log_q).masked_fill(~known, -1e9)
    return torch.where(known.any(dim=-1), -smaller.logsumexp(dim=-1), 0.0)


def topk_tv(draft_logits: torch.Tensor, topk_ids: torch.Tensor, topk_logprobs: torch.Tensor) -> torch.Tensor:
    """Compute the total variation 1 - Σ min(p, q), the chance of a drafted token being rejected, per token.

    What is wanted itself; but where hardly anything is accepted yet, its gradient vanishes (see `lk_hybrid`).

    Args:
        draft_logits, topk_ids, topk_logprobs: As for `topk_acceptance`.
    Returns:
        `torch.Tensor` of shape `(tokens,)`, between 0 and 1.
    Source: Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", arXiv 2211.17192,
        corollary 3.6
    """
    return 1 - expected_alpha(draft_logits, topk_ids, topk_logprobs)


def lk_hybrid(draft_logits: torch.Tensor, topk_ids: torch.Tensor, topk_logprobs: torch.Tensor) -> torch.Tensor:
    """Compute λ KL + (1 - λ) TV with λ = exp(-3 α), per token.

    KL leads where the drafter is still far from the target, total variation where it is accepted already. α, the
    chance of acceptance, only sets the weight: no gradient goes through λ.

    Args:
        draft_logits, topk_ids, topk_logprobs: As for `topk_kl`.
    Returns:
        `torch.Tensor` of shape `(tokens,)`.
    Source: Samarin et al., "LK Losses: Direct Acceptance Rate Optimization for Speculative Decoding", arXiv 2602.23881
    """
    tv = topk_tv(draft_logits, topk_ids, topk_logprobs)
    weight = torch.exp(-_HYBRID_RATE * (1 - tv.detach()))
    return weight * topk_kl(draft_logits, topk_ids, topk_logprobs) + (1 - weight) * tv


def topk_rejected(draft_logits: torch.Tensor, topk_ids: torch.Tensor, topk_logprobs: torch.Tensor) -> torch.Tensor:
    """Compute KL(p || q) times the chance that the target rejects the drafter's token, per token: on-policy learning.

    On-policy distillation lets the drafter draft and the target verify, and learns from the tokens where a draft was
    rejected. A drafter that reads nothing but the text so far needs no decoding for that: accepted tokens are
    distributed as the target's own (arXiv 2211.17192, appendix A.1), so the places where it drafts are those of the
    target's answers, and the target's verdict there follows from the stored top k. A draft at a place is rejected
    with probability TV, by which the loss is weighted in place of drawing one. The weight is of the drafter as it is
    at this step; no gradient goes through it.

    Args:
        draft_logits, topk_ids, topk_logprobs: As for `topk_kl`.
    Returns:
        `torch.Tensor` of shape `(tokens,)`, in nats.
    Source: the stage is that of arXiv 2605.29343
    """
    rejected = topk_tv(draft_logits.detach(), topk_ids, topk_logprobs)
    return rejected * topk_kl(draft_logits, topk_ids, topk_logprobs)


def chance_of_reaching(acceptance: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Compute the chance that the target gets to verify each token of a draft: that it accepts all before it.

    Args:
        acceptance (`torch.Tensor` of shape `(tokens,)`): The chance that each token is accepted once it is reached;
            tokens of a draft stand one behind the other.
        places (`torch.Tensor` of shape `(tokens,)`): Number of tokens before each in its draft. Of a draft that begins
            before the first token the part that is here counts.
    Returns:
        `torch.Tensor` of shape `(tokens,)`, between 0 and 1; 1 where a draft begins.
    Source: the weights of PARD-2, github.com/AMD-AGI/PARD
    """
    index = torch.arange(len(places), device=places.device)
    before = F.pad(acceptance.detach().double().clamp(min=1e-9).log().cumsum(0), (1, 0))[:-1]
    return (before - before[(index - places).clamp(min=0)]).exp().to(acceptance.dtype)


TOPK_LOSSES = {loss.__name__: loss for loss in (topk_kl, topk_tv, topk_acceptance, lk_hybrid, topk_rejected)}


def _log_q(draft_logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Compute log q of some ids of each token; -1 is read as 0, for the caller to leave out."""
    return _LogProbabilities.apply(draft_logits.float(), ids.long().clamp(min=0))


class _LogProbabilities(torch.autograd.Function):
    """Gather from log_softmax, whose gradient is made in one buffer: of a large vocabulary each one counts."""

    @staticmethod
    def forward(ctx, logits, ids):
        normaliser = logits.logsumexp(dim=-1, keepdim=True)
        ctx.save_for_backward(logits, ids, normaliser)
        return logits.gather(-1, ids) - normaliser

    @staticmethod
    def backward(ctx, outer):
        logits, ids, normaliser = ctx.saved_tensors
        gradient = (logits - normaliser).exp_().mul_(-outer.sum(dim=-1, keepdim=True))
        return gradient.scatter_add_(-1, ids, outer), None
