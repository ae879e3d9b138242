"""What drafts are worth: every figure of acceptance, defined once.

p is the target's distribution, q the drafter's (Leviathan et al., "Fast Inference from Transformers via Speculative
Decoding", arXiv 2211.17192).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

_LONGEST_PERIOD = 32
_REPEATS = 4
_LOOP_TOKENS = 16


@dataclass(frozen=True)
class Round:
    """A draft and the target pass that verified it.

    Args:
        drafted (`int`): Tokens that were drafted; of a tree of drafts, those on its longest way.
        accepted (`int`): How many of them stand in the output.
        rejected (`bool`): Whether the target chose another token than the draft. False where all was accepted, and
            where an end of text or the length limit cut the round before anything was rejected.
    """

    drafted: int
    accepted: int
    rejected: bool

    @classmethod
    def of(cls, draft: Sequence[int], output: Sequence[int]) -> "Round":
        """Compare a draft with the tokens of the output that stand in its place."""
        accepted = count_shared(draft, output)
        return cls(len(draft), accepted, rejected=accepted < min(len(draft), len(output)))


def count_shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two sequences begin with alike."""
    return next((place for place, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))


def acceptance_rate(rounds: Sequence[Round]) -> float | None:
    """Compute accepted / drafted, or `None` where nothing was drafted."""
    drafted = sum(round_.drafted for round_ in rounds)
    return sum(round_.accepted for round_ in rounds) / drafted if drafted else None


def alpha(rounds: Sequence[Round]) -> float | None:
    """Compute the chance that one token is accepted: accepted / (accepted + rejected).

    What follows a rejection was never judged and does not count. `None` where nothing was judged.
    """
    accepted = sum(round_.accepted for round_ in rounds)
    judged = accepted + sum(round_.rejected for round_ in rounds)
    return accepted / judged if judged else None


def acceptance_by_position(rounds: Sequence[Round]) -> list[float]:
    """Compute, for each position of a draft, the share of rounds that accepted a token there."""
    longest = max((round_.drafted for round_ in rounds), default=0)
    return [sum(round_.accepted >= position for round_ in rounds) / len(rounds) for position in range(1, longest + 1)]


def mean_accepted_tokens(tokens: int, rounds: int) -> float | None:
    """Compute τ, the tokens that one target pass yields, the target's own included: 1 for plain decoding."""
    return tokens / rounds if rounds else None


def cost_ratio(draft_seconds: float, drafted: int, plain_seconds: float, plain_passes: int) -> float | None:
    """Compute c, the time of one drafted token over that of one pass of the target in plain decoding.

    `None` where nothing was drafted.

    Source: arXiv 2211.17192, section 3.3
    """
    return (draft_seconds / drafted) / (plain_seconds / plain_passes) if drafted else None


def expected_alpha(draft_logits: torch.Tensor, topk_ids: torch.Tensor, topk_logprobs: torch.Tensor) -> torch.Tensor:
    """Compute the chance that a drafted token is accepted, Σ min(p, q), per token.

    The sum runs over the target's top k, which is all that is stored: a lower bound, short of the true value by at
    most the probability outside of them.

    Args:
        draft_logits (`torch.Tensor` of shape `(tokens, vocabulary)`): Unnormalised q.
        topk_ids (`torch.Tensor` of shape `(tokens, k)`): The target's most likely ids; -1 is never drafted.
        topk_logprobs (`torch.Tensor` of shape `(tokens, k)`): log p of them, in nats.
    Returns:
        `torch.Tensor` of shape `(tokens,)`, between 0 and 1.
    Source: arXiv 2211.17192, definition 3.2 and corollary 3.6
    """
    q = draft_logits.float().log_softmax(dim=-1).gather(-1, topk_ids.long().clamp(min=0)).exp()
    return (torch.minimum(q, topk_logprobs.float().exp()) * (topk_ids >= 0)).sum(dim=-1)


def greedy_agreement(draft_logits: torch.Tensor, topk_ids: torch.Tensor) -> torch.Tensor:
    """Tell where drafter and target hold the same token for the most likely, per token.

    Args:
        draft_logits (`torch.Tensor` of shape `(tokens, vocabulary)`): Unnormalised q.
        topk_ids (`torch.Tensor` of shape `(tokens, k)`): The target's most likely ids, best first.
    Returns:
        Boolean `torch.Tensor` of shape `(tokens,)`.
    """
    return draft_logits.argmax(dim=-1) == topk_ids[..., 0]


def is_looping(token_ids: Sequence[int]) -> bool:
    """Tell whether an output ends in a loop, which any drafter guesses easily.

    It does if its last 16 tokens or more repeat a piece of at most 32 tokens, at least four times in a row.
    """
    length = len(token_ids)
    for period in range(1, min(_LONGEST_PERIOD, length // _REPEATS) + 1):
        span = max(_REPEATS * period, _LOOP_TOKENS)
        if span <= length and all(
            token_ids[index] == token_ids[index - period] for index in range(length - span + period, length)
        ):
            return True
    return False
