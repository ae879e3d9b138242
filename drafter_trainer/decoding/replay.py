"""Replay stored greedy completions: measure a drafting loop without running the target.

Greedy decoding has one output. The stored output shows how many tokens of each draft the target would accept. The time
of the target's forward passes comes from measurements of the machine; drafting runs in real time.
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
    """Evict the drafter's data from the machine's caches, as a forward pass of the target does."""
    _ballast(device).sum().item()


@functools.cache
def _ballast(device: torch.device) -> torch.Tensor:
    return torch.ones(_CACHE_BYTES // 4, device=device)


class SimulatedClock:
    """A clock that shows the real time plus simulated time."""

    def __init__(self) -> None:
        self._advanced = 0.0

    def __call__(self) -> float:
        return time.perf_counter() + self._advanced

    def advance(self, milliseconds: float) -> None:
        self._advanced += milliseconds / 1000


@dataclass(frozen=True)
class Costs:
    """Times measured on a machine, in milliseconds.

    No forward pass takes less than a token of plain decoding, so a speedup never exceeds the tokens per target pass.

    Args:
        plain (`float`): One token of plain decoding.
        prompt (`float`): The first token, with the forward pass over the prompt.
        passes (`list[float]`): Entry n is a round that verifies n drafted tokens, with the overhead of the decoding
            loop and without drafting.
        sampling_passes (`list[float]`): The same when sampling.
        step (`float`): One step of the drafter's network; 0 if it is not used.
        step_without_graph (`float`, *optional*): On CUDA, one step without a CUDA graph.
        spread (`float`, *optional*): Spread of repeated measurements of a round, as a share of their median.
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
                f"one token of plain decoding takes {self.plain:.1f} ms, but a verification pass only {shortest:.1f} "
                "ms, which is impossible: the machine was busy with something else, so measure again"
            )

    @property
    def steady(self) -> bool:
        """Whether repeated measurements agree well enough to choose settings by."""
        return self.spread is None or self.spread <= _MOST_SPREAD


@dataclass(frozen=True)
class Replay:
    """The result of replaying completions.

    Args:
        milliseconds (`float`): Time of drafting and of all target passes, including those over the prompts.
    """

    tokens: int
    milliseconds: float
    drafting_milliseconds: float
    plain_milliseconds: float
    rounds: list[Round]

    @property
    def speedup(self) -> float:
        """Tokens per second divided by those of plain decoding."""
        return self.plain_milliseconds / self.milliseconds


@memories_paused()
def replay(
    loop: DraftingLoop,
    completions: Iterable[tuple[Sequence[int], Sequence[int], int]],
    costs: Costs,
    clock: SimulatedClock,
    end_ids: Collection[int] = (),
    target: TargetTexts | None = None,
) -> Replay:
    """Replay greedy completions with a drafting loop.

    Args:
        completions (`Iterable` of `(prompt_ids, completion_ids, max_new_tokens)`): The target's greedy completions.
        costs (`Costs`): Times of the target on this machine.
        end_ids (`Collection[int]`): Ids that end a completion.
        target (`TargetTexts`, *optional*): Caches for a network that attends to the target's keys; without it, the
            network drafts from its own cache only.
    """
    curve = CostModel(costs.passes)
    tokens, target_time, plain, drafting, rounds = 0, 0.0, 0.0, 0.0, []
    for prompt_ids, completion_ids, max_new_tokens in completions:
        verified, left = list(prompt_ids), list(completion_ids)
        tokens += len(left)
        plain += costs.prompt + (len(left) - 1) * costs.plain
        limit = max_new_tokens - 1
        text = target and target.read(loop.network, [*verified, *left])
        while left:
            first = len(verified) == len(prompt_ids)
            cache = None if text is None or first else text.first(len(verified) - 1)
            start = time.perf_counter()
            proposals = loop.draft(verified, limit, end_ids=end_ids, cache=cache) if limit else []
            draft = [proposal.token for proposal in proposals]
            drafting += 1000 * (time.perf_counter() - start)
            judged = Round.of(draft, left)
            accepted = min(judged.accepted, len(left) - 1)  # the last token is the target's own
            rounds.append(Round(len(draft), accepted, judged.rejected))
            # The first pass also reads the prompt, which takes far longer than verifying a draft.
            took = costs.prompt if first else curve(len(draft) + 1)
            start = time.perf_counter()
            evict_caches(loop.device)
            clock.advance(took - 1000 * (time.perf_counter() - start))
            target_time += took
            verified, left = verified + left[: accepted + 1], left[accepted + 1 :]
            limit -= accepted + 1
    return Replay(tokens, target_time + drafting, drafting, plain, rounds)
