"""Measure what a machine takes: a pass of the target by its tokens, a step of the drafter, plain decoding."""

import contextlib
import copy
import dataclasses
import logging
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.generation.utils import GenerateDecoderOnlyOutput

from drafter_trainer.decoding.replay import Costs, evict_caches
from drafter_trainer.decoding.sampling import sampling_arguments
from drafter_trainer.drafters.configuration import draft_config
from drafter_trainer.drafters.initialization import LAYERS, from_scratch
from drafter_trainer.drafters.loop.generate import NoScores, set_draft_length
from drafter_trainer.drafters.loop.graph import GraphedNetwork
from drafter_trainer.drafters.loop.network import LeanNetwork
from drafter_trainer.drafters.loop.repository import build_network
from drafter_trainer.drafters.loop.stock import StockNetwork

_PLAIN_TOKENS = 24
_ATTEMPTS = 3
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Turn:
    """The times of one turn: plain decoding and a round of each draft length, right after each other.

    Args:
        prompt (`float`): First token of plain decoding, in milliseconds; the prompt is read for it.
        plain (`float`): Each further token of plain decoding, in milliseconds.
        rounds (`list[float]`): Greedy rounds with drafts of 0, 1, 2 ... tokens, in milliseconds.
        sampling_rounds (`list[float]`): The same rounds when sampling.
    """

    prompt: float
    plain: float
    rounds: list[float]
    sampling_rounds: list[float]


def take_turn(
    target_model: PreTrainedModel, draft_model: PreTrainedModel, prompt_ids: Sequence[int], longest: int
) -> Turn:
    """Time plain decoding, then greedy and sampling rounds with drafts of 0 to `longest` tokens.

    Args:
        draft_model (`PreTrainedModel`): Lends its configuration; its weights are not used.
        prompt_ids (`Sequence[int]`): The prompt that is continued.
    """
    with _endless(target_model):
        prompt, plain = _time_plain(target_model, prompt_ids)
        rounds, sampling_rounds = (
            _time_rounds(target_model, draft_model, prompt_ids, longest, temperature) for temperature in (0.0, 1.0)
        )
    return Turn(prompt, plain, rounds, sampling_rounds)


def _time_plain(target_model: PreTrainedModel, prompt_ids: Sequence[int]) -> tuple[float, float]:
    """Time the first token of plain greedy decoding and the median of the further ones, in milliseconds."""
    marks: list[float] = []

    def mark(input_ids: torch.Tensor, scores: torch.Tensor, **_) -> torch.Tensor:
        input_ids[0, -1].item()  # waits for the token
        marks.append(1000 * time.perf_counter())
        return torch.zeros(1, dtype=torch.bool, device=input_ids.device)

    begin = 1000 * time.perf_counter()
    _generate(target_model, prompt_ids, 0.0, _PLAIN_TOKENS, stopping_criteria=[mark])
    return marks[0] - begin, statistics.median(np.diff(marks).tolist())


def _time_rounds(
    target_model: PreTrainedModel,
    draft_model: PreTrainedModel,
    prompt_ids: Sequence[int],
    longest: int,
    temperature: float,
) -> list[float]:
    """Time one round of assisted decoding with each draft length, in milliseconds.

    `generate` runs as it always does, with a drafter that returns fillers at once. When sampling, the fillers are
    certain, as the tokens of lookup and table are.
    """
    times: list[float] = []
    last: tuple[int, float] | None = None

    def fill(input_ids: torch.Tensor, **_) -> GenerateDecoderOnlyOutput:
        nonlocal last
        now = time.perf_counter()
        if last is not None and last[0] == len(times):
            times.append(1000 * (now - last[1]))
        # The first pass reads the prompt and is not counted.
        reads_prompt = input_ids.shape[1] == len(prompt_ids)
        length = 0 if reads_prompt else min(len(times), longest)
        filler = input_ids[:, -1:].expand(-1, length)
        last = None if reads_prompt else (length, time.perf_counter())
        return GenerateDecoderOnlyOutput(sequences=torch.cat((input_ids, filler), dim=-1), scores=(NoScores(),))

    # A copy of the module alone: the drafter itself goes on drafting as it did.
    filling = copy.copy(draft_model)
    filling.generate = fill
    filling.generation_config = copy.deepcopy(draft_model.generation_config)
    set_draft_length(filling.generation_config, longest)
    while len(times) <= longest:  # once, unless many fillers are accepted
        last = None
        _generate(target_model, prompt_ids, temperature, longest + 8, assistant_model=filling)
    return times


def _generate(
    target_model: PreTrainedModel, prompt_ids: Sequence[int], temperature: float, max_new_tokens: int, **more: Any
) -> None:
    ids = torch.tensor([list(prompt_ids)], device=target_model.device)
    target_model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        **sampling_arguments(temperature),
        **more,
    )


@contextlib.contextmanager
def _endless(target_model: PreTrainedModel) -> Iterator[None]:
    """Let the target go on behind its end tokens."""
    settings = target_model.generation_config
    saved, settings.eos_token_id = settings.eos_token_id, None
    try:
        yield
    finally:
        settings.eos_token_id = saved


def measure_step(network: LeanNetwork | StockNetwork, prompt_ids: Sequence[int], repeats: int) -> float:
    """Time one step of the drafter's network behind a pass of the target, in ms, the median of `repeats`."""
    network.crop(0)
    network.read(list(prompt_ids))
    start = network.length
    taken = []
    for _ in range(repeats + 2):
        evict_caches(network.device)
        begin = time.perf_counter()
        network.read([prompt_ids[-1]]).argmax().item()
        taken.append(1000 * (time.perf_counter() - begin))
        network.crop(start)
    network.crop(0)
    return statistics.median(taken[2:])


def measure_costs(
    target_model: PreTrainedModel,
    draft_model: PreTrainedModel,
    network: LeanNetwork | StockNetwork | None,
    prompt_ids: Sequence[int],
    longest: int,
    repeats: int,
) -> Costs:
    """Measure plain decoding, the target's passes and a step of the drafter.

    Plain decoding and the passes take turns, so that a busy spell of the machine slows down both. Turns whose times
    differ too much are measured again; if no attempt is steady, the steadiest counts and a warning says so.

    Args:
        draft_model (`PreTrainedModel`): Lends its configuration; its weights are not used.
        network (`LeanNetwork` or `StockNetwork`, *optional*): The drafter's network; without one a step takes no time.
        prompt_ids (`Sequence[int]`): The prompt that is continued.
        longest (`int`): Number of tokens of the longest draft.
        repeats (`int`): Number of turns in one attempt.
    """
    attempts: list[Costs] = []
    while len(attempts) < _ATTEMPTS and not any(costs.steady for costs in attempts):
        attempts.append(
            combine_turns([take_turn(target_model, draft_model, prompt_ids, longest) for _ in range(repeats)])
        )
    costs = min(attempts, key=lambda costs: costs.spread)
    if not costs.steady:
        _logger.warning(
            "the times of this machine are unstable: those of the target's passes differ by %.0f %% in %d attempts. "
            "What is chosen by them may be wrong; measure again when nothing else runs",
            100 * costs.spread,
            len(attempts),
        )
    if network is None:
        return costs
    pieces = LeanNetwork(draft_model, network.draft_ids) if isinstance(network, GraphedNetwork) else None
    return dataclasses.replace(
        costs,
        step=measure_step(network, prompt_ids, 10 * repeats),
        step_without_graph=None if pieces is None else measure_step(pieces, prompt_ids, 10 * repeats),
    )


def combine_turns(turns: Sequence[Turn]) -> Costs:
    """Combine turns into one curve.

    A pass is known by its ratio to plain decoding in the same turn, the median of all turns, and never counts less
    than one token of plain decoding: it computes that token too. No speedup can then exceed the tokens per pass.
    """
    plain = statistics.median(turn.plain for turn in turns)
    ratios = [np.array([getattr(turn, kind) for turn in turns]).T for kind in ("rounds", "sampling_rounds")]
    ratios = [by_length / [turn.plain for turn in turns] for by_length in ratios]
    passes, sampling_passes = ((plain * np.median(kind, axis=1).clip(1)).tolist() for kind in ratios)
    # Half of the turns lie in this range around the median; a single slow pass does not matter.
    low, middle, high = np.quantile(np.concatenate(ratios), (0.25, 0.5, 0.75), axis=1)
    return Costs(
        plain=plain,
        prompt=max(plain, statistics.median(turn.prompt for turn in turns)),
        passes=passes,
        sampling_passes=sampling_passes,
        step=0.0,
        spread=float(np.median((high - low) / middle)),
    )


def untrained_network(
    shape: Mapping[str, int | None], target_model: PreTrainedModel, draft_vocabulary: int, int8: bool
) -> tuple[PreTrainedModel, LeanNetwork | StockNetwork]:
    """Make a drafter of the configured shape with random weights, to be timed.

    Args:
        shape (`Mapping[str, int]`): Depth and widths, as `draft_config` takes them; three layers if left out.
        draft_vocabulary (`int`): Size of the draft vocabulary; 0 for all ids.
        int8 (`bool`): Multiply with int8 weights, on a CPU alone.
    """
    config = draft_config(target_model.config.get_text_config(), **({"num_hidden_layers": LAYERS} | dict(shape)))
    draft_model = from_scratch(config).to(target_model.device, target_model.dtype).eval()
    ids = torch.arange(min(draft_vocabulary, config.vocab_size)) if draft_vocabulary else None
    return draft_model, build_network(draft_model, ids, int8)
