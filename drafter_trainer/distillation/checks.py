"""What every answer must fulfill, whoever gave it: an engine that is misread or set up wrongly is wrong in silence."""

import numpy as np

from drafter_trainer.distillation.requests import Request
from drafter_trainer.distillation.store import TOP_K, Completion
from drafter_trainer.errors import InputError

_LARGEST_SUM = 1.01  # of probabilities, as rounded as servers send them
_TIE = 0.01  # nats; of two tokens that are equally likely, an engine may choose one and list the other first


def check_completion(request: Request, answer: Completion) -> None:
    """Refuse an answer that the target cannot have given, or whose log-probabilities are not the target's."""
    count = len(answer.completion_ids)
    if count > request.max_new_tokens and not answer.retokenized:
        raise InputError(f"an answer has {count} tokens, at most {request.max_new_tokens} were asked for")
    if answer.topk_ids is None or answer.topk_logprobs is None:
        return
    if not answer.topk_ids.shape == answer.topk_logprobs.shape == (count, TOP_K):
        raise InputError(f"{count} tokens came with log-probabilities of shape {answer.topk_logprobs.shape}")
    logprobs = answer.topk_logprobs.astype(np.float64)
    with np.errstate(over="ignore"):
        sums = np.exp(logprobs).sum(axis=-1)
    if not (sums <= _LARGEST_SUM).all():  # as written, NaN is refused too
        raise InputError(
            f"the {TOP_K} largest probabilities of a position sum to {sums.max():.3g}, expected at most 1: these are "
            "no log-probabilities but logits or the like"
        )
    if request.temperature == 0:
        chosen = answer.topk_ids == np.array(answer.completion_ids)[:, None]
        own = np.where(chosen, logprobs, -np.inf).max(axis=-1)
        if (lower := own < logprobs.max(axis=-1) - _TIE).any():
            raise InputError(
                f"{lower.sum()} of the {count} tokens of a greedy answer are not the most likely ones of their "
                "positions: tokens and log-probabilities do not belong together, or something else than the target's "
                "largest logit decides"
            )
