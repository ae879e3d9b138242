"""Losses of drafters: pure, per token, unreduced, in fp32."""

import torch

from drafter_trainer.decoding.metrics import expected_alpha

_HYBRID_RATE = 3.0


def cross_entropy(draft_logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Compute -log q(label), per token.

    Args:
        draft_logits (`torch.Tensor` of shape `(tokens, vocabulary)`): Unnormalized q.
        labels (`torch.Tensor` of shape `(tokens,)`): The target's tokens; -1 (not in the draft vocabulary) has loss 0.
    Returns:
        `torch.Tensor` of shape `(tokens,)`, in nats.
    """
    return torch.where(labels < 0, 0.0, -_log_q(draft_logits, labels[:, None])[:, 0])


def topk_kl(draft_logits: torch.Tensor, topk_ids: torch.Tensor, topk_logprobs: torch.Tensor) -> torch.Tensor:
    """Compute KL(p || q) with all ids outside the target's top k merged into one, per token.

    The loss is Σ p_i (log p_i - log q_i) over the k ids, plus the same term for the rest of the probability. It is a
    lower bound of the whole KL(p || q), because merging outcomes never raises a divergence. It is zero exactly if q
    equals p on all k ids. Unlike a sum over only the k ids, it is never negative.

    Args:
        draft_logits (`torch.Tensor` of shape `(tokens, vocabulary)`): Unnormalized q.
        topk_ids (`torch.Tensor` of shape `(tokens, k)`): The target's most likely ids; -1 (not in the draft
            vocabulary) belongs to the rest.
        topk_logprobs (`torch.Tensor` of shape `(tokens, k)`): log p of these ids, in nats.
    Returns:
        `torch.Tensor` of shape `(tokens,)`, in nats.
    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv 1503.02531; the merged rest by the
        data-processing inequality
    """
    drafted = topk_ids >= 0
    log_p = topk_logprobs.float()
    log_q = _log_q(draft_logits, topk_ids)
    p, q = log_p.exp() * drafted, log_q.exp() * drafted
    inside = (p * (log_p - log_q)).sum(dim=-1)
    # Stored log-probabilities are fp16: probabilities may add up to more than 1, and an exact 0 has no logarithm.
    rest_p = (1 - p.sum(dim=-1)).clamp(min=1e-6)
    rest_q = (1 - q.sum(dim=-1)).clamp(min=1e-6)
    return inside + rest_p * (rest_p.log() - rest_q.log())


def topk_tv(draft_logits: torch.Tensor, topk_ids: torch.Tensor, topk_logprobs: torch.Tensor) -> torch.Tensor:
    """Compute the total variation 1 - Σ min(p, q), the probability that a drafted token is rejected, per token.

    Its gradient vanishes where hardly any token is accepted yet (see `lk_hybrid`).

    Args:
        draft_logits, topk_logprobs: As for `topk_kl`.
        topk_ids (`torch.Tensor` of shape `(tokens, k)`): As for `topk_kl`; -1 is never accepted.
    Returns:
        `torch.Tensor` of shape `(tokens,)`, between 0 and 1.
    Source: Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", arXiv 2211.17192,
        corollary 3.6
    """
    return 1 - expected_alpha(draft_logits, topk_ids, topk_logprobs)


def lk_hybrid(draft_logits: torch.Tensor, topk_ids: torch.Tensor, topk_logprobs: torch.Tensor) -> torch.Tensor:
    """Compute λ KL + (1 - λ) TV with λ = exp(-3 α), per token.

    KL prevails where the drafter is still far from the target, total variation where most drafts are accepted. α is
    the probability of acceptance; no gradient goes through λ.

    Args:
        draft_logits, topk_ids, topk_logprobs: As for `topk_kl`.
    Returns:
        `torch.Tensor` of shape `(tokens,)`.
    Source: Samarin et al., "LK Losses: Direct Acceptance Rate Optimization for Speculative Decoding", arXiv 2602.23881
    """
    tv = topk_tv(draft_logits, topk_ids, topk_logprobs)
    weight = torch.exp(-_HYBRID_RATE * (1 - tv.detach()))
    return weight * topk_kl(draft_logits, topk_ids, topk_logprobs) + (1 - weight) * tv


TOPK_LOSSES = {loss.__name__: loss for loss in (topk_kl, topk_tv, lk_hybrid)}


def _log_q(draft_logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Compute log q of some ids of each token; the caller ignores the result of -1."""
    return _LogProbabilities.apply(draft_logits.float(), ids.long().clamp(min=0))


class _LogProbabilities(torch.autograd.Function):
    """Entries of log_softmax, with a gradient in one buffer: for a large vocabulary a second buffer is costly."""

    @staticmethod
    def forward(ctx, logits, ids):
        normalizer = logits.logsumexp(dim=-1, keepdim=True)
        ctx.save_for_backward(logits, ids, normalizer)
        return logits.gather(-1, ids) - normalizer

    @staticmethod
    def backward(ctx, outer):
        logits, ids, normalizer = ctx.saved_tensors
        gradient = (logits - normalizer).exp_().mul_(-outer.sum(dim=-1, keepdim=True))
        return gradient.scatter_add_(-1, ids, outer), None
