"""Acceptance of each draft source on held-out completions, teacher-forced."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from drafter_trainer.decoding.target_cache import TargetTexts
from drafter_trainer.drafters.loop.settings import NETWORK_BINS, bin_of, default_calibration
from drafter_trainer.drafters.loop.sources import LOOKUP, NETWORK, NGRAM, TAIL, NgramTable, PromptLookup, cut_prompt
from drafter_trainer.tuning.completions import HeldOut

_PRIOR_COUNT = 4.0


def calibrate(
    completions: Iterable[HeldOut], table: NgramTable | None, network, target: TargetTexts | None = None
) -> dict[str, list[float]]:
    """Measure the probability of acceptance for each bin of each source.

    In greedy decoding a token is accepted if it is the completion's. When sampling, a token for which q is 1 is
    accepted with p(token), and one drawn from q with Σ min(p, q), counted over the target's top k. Bins with few
    observations stay near the calibration of an untuned loop.

    Args:
        completions (`Iterable[HeldOut]`): All greedy, or all sampled, for sampling at temperature 1.
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
    sources = {LOOKUP: lookup} | ({} if table is None else {NGRAM: table})
    seen = completion.prompt_ids
    if network is not None:
        seen = cut_prompt(seen, network.prompt_window)
        if len(seen) > network.limit:
            network = None  # as in the loop, past the drafter's context
    if network is not None:
        network.crop(0)
        logits = network.read(seen)
    text = target and target.read(network, [*completion.prompt_ids, *completion.response_ids])
    for position, token in enumerate(completion.response_ids):
        context = lookup.tokens[-TAIL:]
        for name, source in sources.items():
            if (found := source.propose(context)) is not None:
                yield name, found[1], completion.acceptance(position, found[0])
        if network is not None:
            q = torch.softmax(logits, dim=-1)
            likeliest, entry = q.max(dim=-1)
            if completion.temperature == 0:
                likeliest_id = int(entry if network.draft_ids is None else network.draft_ids[entry])
                share = completion.acceptance(position, likeliest_id)
            else:
                share = _overlap(completion, position, q, network.draft_ids)
            yield NETWORK, bin_of(likeliest.item(), NETWORK_BINS), share
            known = len(seen) + position
            if text is not None:
                known = len(completion.prompt_ids) + position
                network.share(text.first(known), known - 1 if position else 0, known)
            if known + 1 < network.limit:
                logits = network.read([token])
            else:
                network = None
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
