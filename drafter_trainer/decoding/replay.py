"""Decode answers that are already known: what a drafting loop would do, without the target.

Greedy decoding has one output. Where it is stored, the target's passes need not be run to see how many tokens of each
draft they would accept: their time is taken from the machine's measured curve, the drafter's own time is real.
"""

import functools
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import torch

from drafter_trainer.decoding.metrics import Round
from drafter_trainer.decoding.target_cache import TargetTexts
from drafter_trainer.drafters.loop.drafting import DraftingLoop
from drafter_trainer.drafters.loop.policy import CostModel
from drafter_trainer.drafters.memory import memories_paused
from drafter_trainer.errors import InputError

_CACHE_BYTES = 64 * 2**20
_MOST_SPREAD = 0.2


def evict_caches(device: torch.device) -> None:
    """Do to the machine's caches what a pass of the target does: what the drafter had there is gone."""
    _ballast(device).sum().item()


@functools.cache
def _ballast(device: torch.device) -> torch.Tensor:
    return torch.ones(_CACHE_BYTES // 4, device=device)


class SimulatedClock:
    """A clock that shows real time plus the time that was simulated."""

    def __init__(self) -> None:
        self._advanced = 0.0

    def __call__(self) -> float:
        return time.perf_counter() + self._advanced

    def advance(self, milliseconds: float) -> None:
        self._advanced += milliseconds / 1000


@dataclass(frozen=True)
class Costs:
    """The times of a machine, in milliseconds.

    No pass takes less than a token of plain decoding, so that a speedup is never above the tokens per pass.

    Args:
        plain (`float`): One token of plain decoding.
        prompt (`float`): The first token, for which the prompt is read.
        passes (`list[float]`): Entry n is a round of assisted decoding that verifies n drafted tokens, all that the
            loop does around the pass included, drafting left out.
        step (`float`): One step of the drafter's network; 0 where it is not asked.
        step_without_graph (`float`, *optional*): On CUDA, the same launched in pieces.
        spread (`float`, *optional*): How far apart repeated measurements of a pass lie, as a share of their median.
    """

    plain: float
    prompt: float
    passes: list[float]
    sampling_passes: list[float]
    step: float
    step_without_graph: float | None = None
    spread: float | None = None

    def __post_init__(self) -> None:
        shortest = min(self.prompt, *self.passes, *self.sampling_passes)
        if shortest < self.plain:
            raise InputError(
                f"one token of plain decoding takes {self.plain:.1f} ms and a pass of the target {shortest:.1f} ms: "
                "a pass cannot take less, so the machine was busy with something else; measure again"
            )

    @property
    def steady(self) -> bool:
        """Whether repeated measurements agree well enough to choose settings by."""
        return self.spread is None or self.spread <= _MOST_SPREAD


@dataclass(frozen=True)
class Replay:
    """The result of replaying completions.

    Args:
        milliseconds (`float`): Of drafting and of the target's passes, those over the prompts included.
    """

    tokens: int
    milliseconds: float
    drafting_milliseconds: float
    plain_milliseconds: float
    rounds: list[Round]

    @property
    def speedup(self) -> float:
        """Tokens a second over those of plain decoding."""
        return self.plain_milliseconds / self.milliseconds


@memories_paused()
def replay(
    loop: DraftingLoop,
    answers: Iterable[tuple[Sequence[int], Sequence[int], int]],
    costs: Costs,
    clock: SimulatedClock,
    end_ids: Collection[int] = (),
    target: TargetTexts | None = None,
) -> Replay:
    """Decode known answers greedily.

    Args:
        answers (`Iterable` of `(prompt_ids, response_ids, max_new_tokens)`): The target's own greedy answers, and the
            limit of their lengths.
        costs (`Costs`): Of the target on this machine.
        end_ids (`Collection[int]`): Ids that end an answer.
        target (`TargetTexts`, *optional*): Reads the answers beforehand for a network that attends to the target's
            keys; without it such a network drafts alone.
    """
    curve = CostModel(costs.passes)
    tokens, milliseconds, plain, drafting, rounds = 0, 0.0, 0.0, 0.0, []
    for prompt_ids, response_ids, max_new_tokens in answers:
        known, left = list(prompt_ids), list(response_ids)
        tokens += len(left)
        plain += costs.prompt + (len(left) - 1) * costs.plain
        limit = max_new_tokens - 1
        text = target and target.read(loop.network, [*known, *left])
        while left:
            # The first pass is the one that reads the prompt.
            cache = text.first(len(known) - 1) if text is not None and len(known) > len(prompt_ids) else None
            start = time.perf_counter()
            draft = loop.draft(known, limit, end_ids=end_ids, cache=cache) if limit else []
            draft = [proposal.token for proposal in draft]
            drafting += 1000 * (time.perf_counter() - start)
            judged = Round.of(draft, left)
            accepted = min(judged.accepted, len(left) - 1)  # the last token is the target's own
            rounds.append(Round(len(draft), accepted, judged.rejected))
            # The first pass reads the prompt too, beside which a draft is nothing.
            took = costs.prompt if len(known) == len(prompt_ids) else curve(len(draft) + 1)
            start = time.perf_counter()
            evict_caches(loop.device)
            clock.advance(took - 1000 * (time.perf_counter() - start))
            milliseconds += took
            known, left = known + left[: accepted + 1], left[accepted + 1 :]
            limit -= accepted + 1
    return Replay(tokens, milliseconds + drafting, drafting, plain, rounds)
