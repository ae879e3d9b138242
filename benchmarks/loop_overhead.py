"""Overhead of a drafting loop, without the network's forward passes: this project's loop, and transformers' own."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from drafter_trainer.drafters.load import with_sources, with_stock_loop
from drafter_trainer.drafters.loop.drafting import DraftingLoop
from drafter_trainer.drafters.loop.generate import attach_loop, loop_of
from drafter_trainer.drafters.loop.network import LeanNetwork
from drafter_trainer.drafters.loop.network_kinds import StockNetwork
from drafter_trainer.drafters.loop.settings import LoopSettings, default_calibration
from drafter_trainer.drafters.loop.sources import FILLER, NETWORK

_TOKENS = 64
_DRAFT_LENGTH = 4


@dataclass
class _Stopwatch:
    seconds: float = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            _wait()
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                _wait()
                self.seconds += time.perf_counter() - start

        return timed


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class _Watched:
    """A timer of a drafter's `generate` and of the forward passes in it, with a `count` of drafted tokens."""

    def __init__(self, drafter: PreTrainedModel, network: Any, forward: str) -> None:
        self.drafter = drafter
        self.drafted = 0
        self._calls, self._forwards = _Stopwatch(), _Stopwatch()
        setattr(network, forward, self._forwards.around(getattr(network, forward)))
        drafter.generate = self._calls.around(drafter.generate)

    def count(self, function: Callable[..., Any], drafted: Callable[[Any], int]) -> Callable[..., Any]:
        """Wrap a function whose result gives the number of drafted tokens."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            self.drafted += drafted(result)
            return result

        return counted

    @property
    def milliseconds(self) -> float:
        """Milliseconds per drafted token, without the forward passes."""
        return 1000 * (self._calls.seconds - self._forwards.seconds) / max(self.drafted, 1)


def measure_overhead(
    target_model: PreTrainedModel, drafter: PreTrainedModel, prompts: Sequence[Sequence[int]]
) -> dict[str, float]:
    """Time both loops in turns while they draft greedily with the same network and no other source.

    Args:
        drafter (`PreTrainedModel`): A drafter with a loop, which decides the draft length. The stock loop drafts four
            tokens per round, which divides its costs by more tokens than its best length would.
        prompts (`Sequence[Sequence[int]]`): Ids of the prompts that are completed.
    Returns:
        `dict` with `this_loop` and `stock_loop`, in milliseconds per drafted token without the network's forward
        passes, and their `ratio`.
    """
    lean = with_sources(drafter, [NETWORK])
    stock = with_stock_loop(drafter, _DRAFT_LENGTH)
    loop = loop_of(lean)
    here = _Watched(lean, loop.network, "read")
    # Fillers only make the target's pass faster: they are not drafts.
    loop.draft = here.count(loop.draft, lambda draft: sum(proposal.source != FILLER for proposal in draft))
    there = _Watched(stock, stock, "forward")
    stock.generate = there.count(stock.generate, lambda output: len(output.scores))
    for prompt_ids in prompts:
        ids = torch.tensor([list(prompt_ids)], device=target_model.device)
        for watched in (here, there):
            target_model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                assistant_model=watched.drafter,
                do_sample=False,
                max_new_tokens=_TOKENS,
            )
    return {
        "this_loop": here.milliseconds,
        "stock_loop": there.milliseconds,
        "ratio": here.milliseconds / there.milliseconds,
    }


def attach_confident_loop(
    draft_model: PreTrainedModel, network: LeanNetwork | StockNetwork, draft_length: int = _DRAFT_LENGTH
) -> None:
    """Let an untrained drafter draft the same number of tokens in every round, as if they were certain."""
    sure = {source: [0.9] * len(shares) for source, shares in default_calibration().items()}
    costs = {draft_model.device.type: [100.0] * (draft_length + 1)}
    settings = LoopSettings([NETWORK], draft_length, calibration=sure, pass_milliseconds=costs)
    vocabulary = draft_model.config.vocab_size
    # With a stopped clock, longer drafts cost nothing, so no draft is too long.
    loop = DraftingLoop(network, None, settings, draft_model.device, vocabulary, clock=lambda: 0.0)
    attach_loop(draft_model, loop)
