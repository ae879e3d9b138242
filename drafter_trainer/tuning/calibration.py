"""Acceptance of each draft source on held-out completions, teacher-forced."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from drafter_trainer.decoding.target_cache import TargetTexts
from drafter_trainer.drafters.loop.settings import default_calibration
from drafter_trainer.drafters.loop.sources import (
    LOOKUP,
    NETWORK,
    NGRAM,
    DraftSource,
    NetworkSource,
    NgramTable,
    PromptLookup,
)
from drafter_trainer.tuning.completions import HeldOut

_PRIOR_COUNT = 4.0


def calibrate(
    completions: Iterable[HeldOut], table: NgramTable | None, network, target: TargetTexts | None = None
) -> dict[str, list[float]]:
    """Measure the probability of acceptance for each bin of each source.

    In greedy decoding, a token is accepted if it is the completion's token. In sampling, a token for which q is 1 is
    accepted with probability p(token), and a token drawn from q with probability Σ min(p, q) over the target's top k.
    Bins with few observations stay near the calibration of an untuned loop.

    Args:
        completions (`Iterable[HeldOut]`): Greedy completions, or sampled ones to calibrate sampling at temperature 1.
        target (`TargetTexts`, *optional*): Reads the completions for a network that attends to the target's keys.
    """
    prior = default_calibration()
    observed = {source: np.zeros((len(shares), 2)) for source, shares in prior.items()}
    for completion in completions:
        for source, bin_, accepted in _observations(completion, table, network, target):
            observed[source][bin_] += accepted, 1
    return {
        source: [
            float((accepted + _PRIOR_COUNT * share) / (count + _PRIOR_COUNT))
            for (accepted, count), share in zip(observed[source], prior[source])
        ]
        for source in prior
    }


def _observations(
    completion: HeldOut, table: NgramTable | None, network, target: TargetTexts | None
) -> Iterator[tuple[str, int, float]]:
    """Yield source, bin and probability of acceptance of every token that a source proposes."""
    lookup = PromptLookup()
    lookup.extend(completion.prompt_ids)
    sources: dict[str, DraftSource] = {LOOKUP: lookup}
    if table is not None:
        sources[NGRAM] = table
    if network is not None:
        sources[NETWORK] = NetworkSource(network)
        sources[NETWORK].begin(len(completion.prompt_ids))
    text = target and target.read(network, [*completion.prompt_ids, *completion.response_ids])
    for position, token in enumerate(completion.response_ids):
        context = lookup.tokens
        if text is not None and position:
            sources[NETWORK].share(text.first(len(context) - 1), context)
        for name, source in sources.items():
            if (proposal := source.propose(context)) is None:
                continue
            proposed, bin_ = proposal
            if name == NETWORK and completion.temperature > 0:
                yield name, bin_, _overlap(completion, position, source.probabilities, network.draft_ids)
            else:
                yield name, bin_, completion.acceptance(position, proposed)
        lookup.extend([token])


def _overlap(completion: HeldOut, position: int, q: torch.Tensor, draft_ids: torch.Tensor | None) -> float:
    """Compute Σ min(p, q) over the target's top k."""
    wanted = torch.from_numpy(completion.topk_ids[position].astype(np.int64)).to(q.device)
    if draft_ids is None:
        shares = q[wanted]
    else:
        entries = torch.searchsorted(draft_ids, wanted).clamp(max=len(draft_ids) - 1)
        shares = torch.where(draft_ids[entries] == wanted, q[entries], 0.0)
    p = torch.from_numpy(np.exp(completion.topk_logprobs[position].astype(np.float32))).to(q.device)
    return float(torch.minimum(shares, p).sum())
