"""A drafted token, and what is known of it."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Proposal:
    """A drafted token.

    Args:
        token (`int`): Its id in the target's vocabulary.
        source (`str`): Who drafted it.
        probability (`float`): How likely the target accepts it, as far as it was known before it was drawn.
        bin (`int`): How sure its source was: which of the source's bins in the calibration.
        scores (`torch.Tensor` of shape `(vocabulary,)`, *optional*): Logits of the q that it was drawn from; `None`
            where nothing was drawn, so that q is 1 at the token.
        gained (`bool`): Whether the network told a token that no other source knew.
    """

    token: int
    source: str
    probability: float
    bin: int = 0
    scores: torch.Tensor | None = None
    gained: bool = False
