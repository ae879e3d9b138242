"""How often the target accepts what each source proposes, on held-out answers, teacher-forced."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from drafter_trainer.decoding.target_cache import TargetTexts
from drafter_trainer.drafters.loop.lookup import SuffixIndex
from drafter_trainer.drafters.loop.ngram import NgramTable
from drafter_trainer.drafters.loop.policy import LOOKUP, NETWORK, NGRAM
from drafter_trainer.drafters.loop.settings import HIGHEST_ORDER, NETWORK_BINS, bin_of, default_calibration
from drafter_trainer.drafters.loop.window import cut_prompt

_PRIOR_COUNT = 4.0


@dataclass(frozen=True)
class HeldOut:
    """A held-out completion.

    Args:
        max_new_tokens (`int`): Limit of the answer's length.
        temperature (`float`): It was decoded at; 0 is greedy.
        topk_ids (`np.ndarray` of shape `(tokens, k)`): The target's most likely ids at each position of the answer.
        topk_logprobs (`np.ndarray` of shape `(tokens, k)`): Their log-probabilities at temperature 1, in nats.
    """

    prompt_ids: list[int]
    response_ids: list[int]
    max_new_tokens: int
    temperature: float
    topk_ids: np.ndarray
    topk_logprobs: np.ndarray

    def known(self) -> tuple[list[int], list[int], int]:
        """Return it as `decoding.replay.replay` takes it."""
        return self.prompt_ids, self.response_ids, self.max_new_tokens

    def chance(self, position: int, token: int) -> float:
        """Return how likely the target accepts a token that is certain: p(token), 0 outside the top k.

        In greedy decoding that is 1 where the target said it, else 0.
        """
        if self.temperature == 0:
            return float(self.response_ids[position] == token)
        found = np.flatnonzero(self.topk_ids[position] == token)
        return float(np.exp(self.topk_logprobs[position, found[0]])) if len(found) else 0.0


def calibrate(
    answers: Iterable[HeldOut], table: NgramTable | None, network, target: TargetTexts | None = None
) -> dict[str, list[float]]:
    """Measure the probability of acceptance for each bin of each source.

    In greedy decoding a token is accepted if the target said it. When sampling, a certain token is accepted with
    p(token), and one drawn from q with Σ min(p, q), of which the target's top k are counted. Bins with few
    observations lean to what the loop assumes before it is tuned.

    Args:
        answers (`Iterable[HeldOut]`): All greedy, or all sampled, for sampling at temperature 1.
        target (`TargetTexts`, *optional*): Reads the answers for a network that attends to the target's keys.
    """
    prior = default_calibration()
    observed = {source: np.zeros((len(shares), 2)) for source, shares in prior.items()}
    for answer in answers:
        for source, bin_, accepted in _observations(answer, table, network, target):
            observed[source][bin_] += accepted, 1
    return {
        source: [
            float((accepted + _PRIOR_COUNT * share) / (count + _PRIOR_COUNT))
            for (accepted, count), share in zip(observed[source], prior[source])
        ]
        for source in prior
    }


def _observations(
    answer: HeldOut, table: NgramTable | None, network, target: TargetTexts | None
) -> Iterator[tuple[str, int, float]]:
    index = SuffixIndex()
    index.extend(answer.prompt_ids)
    seen = answer.prompt_ids
    if network is not None:
        seen = cut_prompt(seen, network.prompt_window)
        if len(seen) > network.limit:
            network = None  # as in the loop: text beyond the drafter's context goes on without it
    if network is not None:
        network.crop(0)
        logits = network.read(seen)
    text = target and target.read(network, [*answer.prompt_ids, *answer.response_ids])
    for position, token in enumerate(answer.response_ids):
        if (found := index.next_token([])) is not None:
            yield LOOKUP, found[1], answer.chance(position, found[0])
        if table is not None and (found := table.next_token(index.tokens[-HIGHEST_ORDER:])) is not None:
            yield NGRAM, found[1], answer.chance(position, found[0])
        if network is not None:
            yield _network_observation(answer, position, logits, network.draft_ids)
            known = len(seen) + position
            if text is not None:
                known = len(answer.prompt_ids) + position
                network.share(text.first(known), known - 1 if position else 0, known)
            if known + 1 < network.limit:
                logits = network.read([token])
            else:
                network = None
        index.extend([token])


def _network_observation(
    answer: HeldOut, position: int, logits: torch.Tensor, draft_ids: torch.Tensor | None
) -> tuple[str, int, float]:
    q = torch.softmax(logits, dim=-1)
    likeliest, entry = q.max(dim=-1)
    if answer.temperature == 0:
        share = answer.chance(position, int(entry if draft_ids is None else draft_ids[entry]))
    else:
        share = _overlap(answer, position, q, draft_ids)
    return NETWORK, bin_of(likeliest.item(), NETWORK_BINS), share


def _overlap(answer: HeldOut, position: int, q: torch.Tensor, draft_ids: torch.Tensor | None) -> float:
    """Compute Σ min(p, q) over the target's top k."""
    wanted = torch.from_numpy(answer.topk_ids[position].astype(np.int64)).to(q.device)
    if draft_ids is None:
        shares = q[wanted]
    else:
        entries = torch.searchsorted(draft_ids, wanted).clamp(max=len(draft_ids) - 1)
        shares = torch.where(draft_ids[entries] == wanted, q[entries], 0.0)
    p = torch.from_numpy(np.exp(answer.topk_logprobs[position].astype(np.float32))).to(q.device)
    return float(torch.minimum(shares, p).sum())
