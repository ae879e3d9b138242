"""Acceptance metrics of speculative decoding, with one definition of each metric.

p is the target's distribution, q the drafter's (Leviathan et al., "Fast Inference from Transformers via Speculative
Decoding", arXiv 2211.17192).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

_LONGEST_PERIOD = 32
_REPEATS = 4
_LOOP_TOKENS = 16


@dataclass(frozen=True)
class Round:
    """A draft and the target's forward pass that verified it.

    Args:
        drafted (`int`): Number of drafted tokens; for a tree of drafts, its depth.
        accepted (`int`): Number of drafted tokens in the output.
        rejected (`bool`): Whether the target chose another token than the draft. False if all tokens were accepted, or
            if an end of text or the length limit ended the round before a rejection.
    """

    drafted: int
    accepted: int
    rejected: bool

    @classmethod
    def of(cls, draft: Sequence[int], output: Sequence[int]) -> "Round":
        """Compare a draft with the output tokens at the same positions."""
        accepted = count_shared(draft, output)
        return cls(len(draft), accepted, rejected=accepted < min(len(draft), len(output)))


def count_shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the length of the common prefix of two sequences."""
    return next((index for index, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))


def acceptance_rate(rounds: Sequence[Round]) -> float | None:
    """Compute accepted / drafted, or `None` if nothing was drafted."""
    drafted = sum(round_.drafted for round_ in rounds)
    return sum(round_.accepted for round_ in rounds) / drafted if drafted else None


def alpha(rounds: Sequence[Round]) -> float | None:
    """Compute the probability that one token is accepted: accepted / (accepted + rejected).

    Tokens after a rejection were not judged and do not count. `None` if no token was judged.
    """
    accepted = sum(round_.accepted for round_ in rounds)
    judged = accepted + sum(round_.rejected for round_ in rounds)
    return accepted / judged if judged else None


def acceptance_by_position(rounds: Sequence[Round]) -> list[float]:
    """Compute the share of rounds that accepted a token at each position of the draft."""
    longest = max((round_.drafted for round_ in rounds), default=0)
    return [sum(round_.accepted >= position for round_ in rounds) / len(rounds) for position in range(1, longest + 1)]


def mean_accepted_tokens(tokens: int, rounds: int) -> float | None:
    """Compute τ, the tokens per target pass, the target's own token included: 1 for plain decoding."""
    return tokens / rounds if rounds else None


def acceptance_figures(rounds: Sequence[Round], tokens: int) -> dict[str, Any]:
    """Compute all acceptance figures, by name, of rounds with a total of `tokens` output tokens."""
    return {
        "acceptance_rate": acceptance_rate(rounds),
        "alpha": alpha(rounds),
        "mean_accepted_tokens": mean_accepted_tokens(tokens, len(rounds)),
        "acceptance_by_position": acceptance_by_position(rounds),
    }


def cost_ratio(draft_seconds: float, drafted: int, plain_seconds: float, plain_passes: int) -> float | None:
    """Compute c, the time of one drafted token divided by the time of one target pass in plain decoding.

    `None` if nothing was drafted.

    Source: arXiv 2211.17192, section 3.3
    """
    return (draft_seconds / drafted) / (plain_seconds / plain_passes) if drafted else None


def expected_alpha(draft_logits: torch.Tensor, topk_ids: torch.Tensor, topk_logprobs: torch.Tensor) -> torch.Tensor:
    """Compute the probability that a drafted token is accepted, Σ min(p, q), per token.

    The sum runs over the target's stored top k. It is a lower bound of the true value, from which it differs by at
    most the probability outside the top k.

    Args:
        draft_logits (`torch.Tensor` of shape `(tokens, vocabulary)`): Unnormalized q.
        topk_ids (`torch.Tensor` of shape `(tokens, k)`): The target's most likely ids; -1 is never drafted.
        topk_logprobs (`torch.Tensor` of shape `(tokens, k)`): log p of these ids, in nats.
    Returns:
        `torch.Tensor` of shape `(tokens,)`, between 0 and 1.
    Source: arXiv 2211.17192, definition 3.2 and corollary 3.6
    """
    q = draft_logits.float().log_softmax(dim=-1).gather(-1, topk_ids.long().clamp(min=0)).exp()
    return (torch.minimum(q, topk_logprobs.float().exp()) * (topk_ids >= 0)).sum(dim=-1)


def greedy_agreement(draft_logits: torch.Tensor, topk_ids: torch.Tensor) -> torch.Tensor:
    """Return whether drafter and target have the same most likely token, per token.

    Args:
        draft_logits (`torch.Tensor` of shape `(tokens, vocabulary)`): Unnormalized q.
        topk_ids (`torch.Tensor` of shape `(tokens, k)`): The target's most likely ids, best first.
    Returns:
        Boolean `torch.Tensor` of shape `(tokens,)`.
    """
    return draft_logits.argmax(dim=-1) == topk_ids[..., 0]


def is_looping(token_ids: Sequence[int]) -> bool:
    """Return whether an output ends in a loop, which any drafter predicts easily.

    In a loop, the last 16 tokens or more repeat a sequence of at most 32 tokens at least four times.
    """
    length = len(token_ids)
    for period in range(1, min(_LONGEST_PERIOD, length // _REPEATS) + 1):
        start = length - max(_REPEATS * period, _LOOP_TOKENS)
        if start >= 0 and token_ids[start + period :] == token_ids[start : length - period]:
            return True
    return False
