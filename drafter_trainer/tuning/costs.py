"""Measure what a machine takes: a pass of the target by its tokens, a step of the drafter, plain decoding."""

import contextlib
import copy
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel
from transformers.generation.utils import GenerateDecoderOnlyOutput

from drafter_trainer.arguments import DrafterArguments
from drafter_trainer.decoding.replay import Costs, evict_caches
from drafter_trainer.decoding.rounds import decode
from drafter_trainer.decoding.sampling import sampling_arguments
from drafter_trainer.drafters.configuration import draft_config
from drafter_trainer.drafters.initialization import from_scratch
from drafter_trainer.drafters.loop.generate import NoScores, set_draft_length
from drafter_trainer.drafters.loop.graph import GraphedNetwork
from drafter_trainer.drafters.loop.network import LeanNetwork
from drafter_trainer.drafters.loop.repository import build_network
from drafter_trainer.drafters.loop.stock import StockNetwork

_PLAIN_TOKENS = 24


def measure_passes(
    target_model: PreTrainedModel,
    draft_model: PreTrainedModel,
    prompt_ids: Sequence[int],
    longest: int,
    repeats: int,
    temperature: float = 0.0,
) -> list[float]:
    """Time rounds of assisted decoding with drafts of 0 to `longest` tokens.

    `generate` runs as it always does, with a drafter that returns fillers at once; lengths take turns, so that a
    machine that drifts drifts for all of them.

    Args:
        draft_model (`PreTrainedModel`): Lends its configuration; its weights are not used.
        prompt_ids (`Sequence[int]`): What is continued.
        repeats (`int`): Rounds of each length, of which the median is returned.
        temperature (`float`, *optional*, defaults to `0.0`): Of decoding; the fillers are certain, as tokens of lookup
            and table are.
    Returns:
        `list[float]` of length `longest + 1`, in milliseconds.
    """
    lengths = itertools.cycle(range(longest + 1))
    times: list[list[float]] = [[] for _ in range(longest + 1)]
    last: tuple[int, float] | None = None

    def fill(input_ids: torch.Tensor, **_) -> GenerateDecoderOnlyOutput:
        nonlocal last
        now = time.perf_counter()
        if last is not None:
            times[last[0]].append(1000 * (now - last[1]))
        # The first pass reads the prompt and is not counted.
        length = next(lengths) if input_ids.shape[1] > len(prompt_ids) else 0
        filler = input_ids[:, -1:].expand(-1, length)
        last = (length, time.perf_counter()) if input_ids.shape[1] > len(prompt_ids) else None
        return GenerateDecoderOnlyOutput(sequences=torch.cat((input_ids, filler), dim=-1), scores=(NoScores(),))

    # A copy of the module alone: the drafter itself goes on drafting as it did.
    filling = copy.copy(draft_model)
    filling.generate = fill
    filling.generation_config = copy.deepcopy(draft_model.generation_config)
    set_draft_length(filling.generation_config, longest)
    ids = torch.tensor([list(prompt_ids)], device=target_model.device)
    with _endless(target_model):
        while min(map(len, times)) < repeats:
            last = None
            target_model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                assistant_model=filling,
                max_new_tokens=8 * (longest + 2),
                **sampling_arguments(temperature),
            )
    return [statistics.median(taken) for taken in times]


def measure_plain(target_model: PreTrainedModel, prompt_ids: Sequence[int], repeats: int) -> tuple[float, float]:
    """Time plain decoding.

    Returns:
        `tuple` of the milliseconds of the first token, for which the prompt is read, and of each further one.
    """
    firsts, further = [], []
    with _endless(target_model):
        for _ in range(repeats):
            first, all_ = (
                1000 * decode(target_model, prompt_ids, {}, 0.0, 0, tokens).seconds for tokens in (1, _PLAIN_TOKENS)
            )
            firsts.append(first)
            further.append((all_ - first) / (_PLAIN_TOKENS - 1))
    return statistics.median(firsts), statistics.median(further)


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
    """Measure all three; see the functions above. A step takes no time where there is no network."""
    prompt, plain = measure_plain(target_model, prompt_ids, repeats)
    greedy, sampling = (
        measure_passes(target_model, draft_model, prompt_ids, longest, repeats, temperature)
        for temperature in (0.0, 1.0)
    )
    pieces = LeanNetwork(draft_model, network.draft_ids) if isinstance(network, GraphedNetwork) else None
    return Costs(
        plain=plain,
        prompt=prompt,
        passes=greedy,
        sampling_passes=sampling,
        step=0.0 if network is None else measure_step(network, prompt_ids, 10 * repeats),
        step_without_graph=None if pieces is None else measure_step(pieces, prompt_ids, 10 * repeats),
    )


def untrained_network(
    shape: DrafterArguments, target_model: PreTrainedModel, draft_vocabulary: int, int8: bool
) -> tuple[PreTrainedModel, LeanNetwork | StockNetwork]:
    """Make a drafter of the configured shape with random weights, to be timed.

    Args:
        draft_vocabulary (`int`): Size of the draft vocabulary; 0 for all ids.
        int8 (`bool`): Multiply with int8 weights, on a CPU alone.
    """
    config = draft_config(target_model.config.get_text_config(), **shape.widths())
    draft_model = from_scratch(config).to(target_model.device, target_model.dtype).eval()
    ids = torch.arange(min(draft_vocabulary, config.vocab_size)) if draft_vocabulary else None
    return draft_model, build_network(draft_model, ids, int8)
