"""Measure a machine: rounds of assisted decoding by draft length, plain decoding, and a step of the drafter's network.

The forecast from these times: if each token is accepted with probability α, a round with k drafted tokens yields
(1 - α^(k+1)) / (1 - α) tokens (Leviathan et al., arXiv 2211.17192, equation 1).
"""

import copy
import json
import logging
import statistics
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.generation.utils import GenerateDecoderOnlyOutput

from drafter_trainer.atomic import write_json
from drafter_trainer.benchmark.report import markdown_table
from drafter_trainer.decoding.metrics import mean_accepted_tokens
from drafter_trainer.decoding.replay import Costs, SimulatedClock, evict_caches, replay
from drafter_trainer.decoding.sampling import sampling_arguments
from drafter_trainer.decoding.target_cache import TargetTexts
from drafter_trainer.drafters.initialization import LAYERS, draft_config, from_scratch
from drafter_trainer.drafters.loop.drafting import DraftingLoop
from drafter_trainer.drafters.loop.generate import NoScores, loop_of, set_draft_length
from drafter_trainer.drafters.loop.network import LeanNetwork
from drafter_trainer.drafters.loop.network_kinds import GraphedNetwork, StockNetwork, build_network
from drafter_trainer.errors import InputError
from drafter_trainer.tuning.completions import HeldOut

COSTS = "costs.json"
_PLAIN_TOKENS = 24
_ATTEMPTS = 3
_ALPHAS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_logger = logging.getLogger(__name__)


class Turn(NamedTuple):
    """Times of plain decoding and of rounds that were measured right after each other, in milliseconds."""

    prompt: float  # the first token of plain decoding, for which the prompt is read
    plain: float  # each further token
    rounds: list[float]  # greedy, with drafts of 0, 1, 2 ... tokens
    sampling_rounds: list[float]


def take_turn(
    target_model: PreTrainedModel, draft_model: PreTrainedModel, prompt_ids: Sequence[int], longest: int
) -> Turn:
    """Time plain decoding, then greedy and sampling rounds with drafts of 0 to `longest` tokens.

    Only the configuration of `draft_model` is used.
    """
    marks: list[float] = []

    def mark(input_ids: torch.Tensor, scores: torch.Tensor, **_) -> torch.Tensor:
        input_ids[0, -1].item()  # waits for the token
        marks.append(1000 * time.perf_counter())
        return torch.zeros(1, dtype=torch.bool, device=input_ids.device)

    begin = 1000 * time.perf_counter()
    _generate(target_model, prompt_ids, 0.0, _PLAIN_TOKENS, stopping_criteria=[mark])
    rounds = [_time_rounds(target_model, draft_model, prompt_ids, longest, temperature) for temperature in (0.0, 1.0)]
    return Turn(marks[0] - begin, statistics.median(np.diff(marks).tolist()), *rounds)


def _time_rounds(
    target_model: PreTrainedModel,
    draft_model: PreTrainedModel,
    prompt_ids: Sequence[int],
    longest: int,
    temperature: float,
) -> list[float]:
    """Time one round of assisted decoding for each draft length, in milliseconds.

    The drafter returns fillers immediately. When sampling, q is 1 at a filler, as for tokens of lookup and table.
    """
    times: list[float] = []
    last: tuple[int, float] | None = None

    def fill(input_ids: torch.Tensor, **_) -> GenerateDecoderOnlyOutput:
        nonlocal last
        now = time.perf_counter()
        if last is not None and last[0] == len(times):
            times.append(1000 * (now - last[1]))
        # The first forward pass reads the prompt and is not counted.
        reads_prompt = input_ids.shape[1] == len(prompt_ids)
        length = 0 if reads_prompt else min(len(times), longest)
        filler = input_ids[:, -1:].expand(-1, length)
        last = None if reads_prompt else (length, time.perf_counter())
        return GenerateDecoderOnlyOutput(sequences=torch.cat((input_ids, filler), dim=-1), scores=(NoScores(),))

    # A shallow copy of the module: the drafter itself keeps its own `generate`.
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
    """Generate past end tokens."""
    ids = torch.tensor([list(prompt_ids)], device=target_model.device)
    more |= {"attention_mask": torch.ones_like(ids), "eos_token_id": None} | sampling_arguments(temperature)
    target_model.generate(input_ids=ids, max_new_tokens=max_new_tokens, **more)


def measure_step(network: LeanNetwork | StockNetwork, prompt_ids: Sequence[int], repeats: int) -> float:
    """Return the median time of `repeats` steps of the drafter's network, in milliseconds, with cold caches."""
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
    """Measure plain decoding, verification passes and a step of the drafter's network.

    Plain decoding and verification passes take turns, so that other load on the machine slows down both. Turns that
    differ too much are measured again. If no attempt is steady, the one with the least spread counts, with a warning.

    Args:
        draft_model (`PreTrainedModel`): The drafter; only its configuration is used.
        network (`LeanNetwork` or `StockNetwork`, *optional*): The drafter's network; without one, a step costs 0.
        prompt_ids (`Sequence[int]`): The prompt that is continued.
        longest (`int`): Maximum draft length, in tokens.
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
            "the timings of this machine are unstable: verification passes differ by %.0f %% in %d attempts. Settings "
            "chosen by these timings may be wrong; measure again when nothing else runs",
            100 * costs.spread,
            len(attempts),
        )
    if network is None:
        return costs
    ungraphed = LeanNetwork(draft_model, network.draft_ids) if isinstance(network, GraphedNetwork) else None
    return replace(
        costs,
        step=measure_step(network, prompt_ids, 10 * repeats),
        step_without_graph=None if ungraphed is None else measure_step(ungraphed, prompt_ids, 10 * repeats),
    )


def combine_turns(turns: Sequence[Turn]) -> Costs:
    """Combine turns into one curve of costs.

    The cost of a verification pass is the median, over the turns, of its ratio to a token of plain decoding. The ratio
    is at least 1, because the pass computes this token too. So no speedup exceeds the tokens per target pass.
    """
    plain = statistics.median(turn.plain for turn in turns)
    ratios = [np.array([getattr(turn, name) for turn in turns]).T for name in ("rounds", "sampling_rounds")]
    ratios = [by_length / [turn.plain for turn in turns] for by_length in ratios]
    passes, sampling_passes = ((plain * np.median(by_length, axis=1).clip(1)).tolist() for by_length in ratios)
    # The interquartile range, relative to the median: a single slow pass does not matter.
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
    """Make a drafter with random weights, to be timed.

    `shape` has depth and widths, as for `draft_config`; a draft vocabulary of 0 has all ids.
    """
    config = draft_config(target_model.config.get_text_config(), **({"num_hidden_layers": LAYERS} | dict(shape)))
    draft_model = from_scratch(config).to(target_model.device, target_model.dtype).eval()
    ids = torch.arange(min(draft_vocabulary, config.vocab_size)) if draft_vocabulary else None
    return draft_model, build_network(draft_model, ids, int8)


def write_costs(folder: Path, costs: Costs) -> None:
    """Write the measured costs, for other tunings on the same machine."""
    write_json(folder / COSTS, asdict(costs))


def read_costs(folder: Path, longest: int) -> Costs:
    """Read the costs that `write_costs` wrote, for drafts of at most `longest` tokens."""
    path = folder / COSTS
    if not path.is_file():
        raise InputError(f"{folder} has no {COSTS}: name the folder of a tuning")
    try:
        costs = Costs(**json.loads(path.read_text(encoding="utf-8")))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if (timed := len(costs.passes) - 1) < longest:
        raise InputError(
            f"{path} has the times of drafts of up to {timed} tokens: give longest_draft {timed}, or measure again"
        )
    return replace(costs, passes=costs.passes[: longest + 1], sampling_passes=costs.sampling_passes[: longest + 1])


def expected_tokens(alpha: float, draft_length: int) -> float:
    """Compute the expected tokens per target pass."""
    return sum(alpha**position for position in range(draft_length + 1))


def expected_speedup(alpha: float, draft_length: int, costs: Costs) -> float:
    """Compute the speedup over plain decoding, at most the tokens per target pass."""
    round_milliseconds = costs.passes[draft_length] + draft_length * costs.step
    return expected_tokens(alpha, draft_length) * (costs.plain / round_milliseconds)


def best_draft_length(alpha: float, costs: Costs) -> int:
    """Find the draft length with the highest speedup."""
    return max(range(1, len(costs.passes)), key=lambda length: expected_speedup(alpha, length, costs))


def break_even(costs: Costs) -> float | None:
    """Find the lowest α, to three digits, at which drafting is as fast as plain decoding; `None` if there is none."""
    for alpha in (step / 1000 for step in range(1001)):
        if expected_speedup(alpha, best_draft_length(alpha, costs), costs) >= 1:
            return alpha
    return None


def forecast_table(costs: Costs) -> str:
    """Render the best draft length, tokens per target pass and speedup for several α."""
    rows = []
    for alpha in _ALPHAS:
        length = best_draft_length(alpha, costs)
        tokens, speedup = expected_tokens(alpha, length), expected_speedup(alpha, length, costs)
        rows.append([f"{alpha:.1f}", str(length), f"{tokens:.2f}", f"{speedup:.2f}x"])
    return markdown_table(["α", "best draft", "tokens per pass", "speedup"], rows)


def forecast_drafter(
    drafter: PreTrainedModel,
    completions: Sequence[HeldOut],
    costs: Costs,
    end_ids: Collection[int],
    target: TargetTexts | None = None,
) -> dict[str, Any]:
    """Replay a loaded drafter on held-out greedy completions; return its speedup and tokens per target pass."""
    own, clock = loop_of(drafter), SimulatedClock()
    loop = DraftingLoop(own.network, own.table, own.settings, own.device, own.vocabulary, clock)
    result = replay(loop, map(HeldOut.for_replay, completions), costs, clock, end_ids, target)
    return {
        "speedup": result.speedup,
        "tokens_per_pass": mean_accepted_tokens(result.tokens, len(result.rounds)),
        "drafting_milliseconds": result.drafting_milliseconds / len(result.rounds),
        "answers": len(completions),
    }
