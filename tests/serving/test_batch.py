"""Drafts for the requests of a batch, served as an engine serves them, and the costs that they follow."""

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from drafter_trainer.drafters.loop.settings import LoopSettings
from drafter_trainer.drafters.loop.sources import NgramTable
from drafter_trainer.drafters.memory import CompletionMemory
from drafter_trainer.drafters.ngram import count_table
from drafter_trainer.serving.batch import BatchDrafter, LinearCostModel
from drafter_trainer.serving.network import BatchedNetwork
from tests.conftest import make_model
from tests.drafters.loop.conftest import FLAT, Clock, make_settings

STEEP = [10.0 + 4.0 * tokens for tokens in range(17)]
LONGEST = 4


def without_network(settings: LoopSettings, **given) -> BatchDrafter:
    """Make a drafter of lookup, by stored costs."""
    return BatchDrafter(None, given.pop("table", None), settings, "cpu", **{"clock": None} | given)


def draft_for(drafter: BatchDrafter, *texts: Sequence[int], limit: int = LONGEST) -> list[list[int]]:
    return drafter.draft([np.array(text, dtype=np.int32) for text in texts], [limit] * len(texts))


class Engine:
    """A server like vLLM: rows move; requests come, go, are preempted, and are read in parts."""

    def __init__(
        self, drafter: BatchDrafter, successor: Callable[[list[int]], int], rows: int, seed: int | None = None
    ) -> None:
        self.drafter, self.successor, self.rows = drafter, successor, rows
        self.random = random.Random(seed) if seed is not None else None
        self.tokens = self.passes = self.accepted = 0
        self.drafts: list[tuple[list[int], list[int]]] = []

    def serve(self, prompts: list[list[int]], lengths: list[int]) -> list[list[int]]:
        texts = [list(prompt) for prompt in prompts]
        drafts: list[list[int]] = [[] for _ in prompts]
        waiting, running = list(range(len(prompts))), []
        while waiting or running:
            while waiting and len(running) < self.rows:
                running.append(waiting.pop(0))
            partial = set()
            if self.random:
                self.random.shuffle(running)
                if len(running) > 1 and self.random.random() < 0.1:  # preempted: its draft is lost
                    preempted = running.pop()
                    drafts[preempted] = []
                    waiting.insert(self.random.randrange(len(waiting) + 1), preempted)
                partial = {place for place in running if self.random.random() < 0.1}
            for place in running:
                if place not in partial:
                    self._step(texts[place], drafts[place])
            running = [place for place in running if len(texts[place]) < len(prompts[place]) + lengths[place]]
            rows = [np.array(texts[place], dtype=np.int32) for place in running]
            limits = [0 if place in partial else LONGEST for place in running]
            for place, limit, draft in zip(running, limits, self.drafter.draft(rows, limits)):
                assert len(draft) <= limit
                drafts[place] = draft
                self.drafts.append((list(texts[place]), draft))
        return [text[len(prompt) : len(prompt) + length] for text, prompt, length in zip(texts, prompts, lengths)]

    def _step(self, text: list[int], draft: list[int]) -> None:
        self.passes += 1
        for proposed in [*draft, None]:
            token = self.successor(text)
            text.append(token)
            self.tokens += 1
            if token != proposed:
                break
            self.accepted += 1


def cycle(text: list[int]) -> int:
    """A target that repeats seven tokens, other ones for each request."""
    first = text[0] // 10 * 10
    return first + (text[-1] - first + 1) % 7


@torch.inference_mode()
def next_token(model: PreTrainedModel, text: list[int]) -> int:
    return int(model(input_ids=torch.tensor([text]), use_cache=False).logits[0, -1].argmax())


def test_no_draft_leaks_into_another_request() -> None:
    """A state of another row would draft that request's text; only tokens of the request itself may appear."""
    drafter = without_network(make_settings(FLAT))
    engine = Engine(drafter, cycle, rows=6, seed=0)
    prompts = [[10 * number, *([10 * number + 3] * (number % 3))] for number in range(1, 60)]
    engine.serve(prompts, [5 + number % 30 for number in range(59)])
    for text, draft in engine.drafts:
        assert {token // 10 for token in draft} <= {text[0] // 10}
    assert engine.accepted > engine.passes  # it drafts all the same
    for _ in range(70):  # texts of requests that have ended are forgotten
        draft_for(drafter, [1, 2])
    assert len(drafter._texts) == 1


def test_batch_drafts_as_for_each_request_alone() -> None:
    """In a batch a request must get the drafts that it gets without the others."""
    table = NgramTable(count_table([[1, 2, 3, 4, 5], [7, 2, 9, 9, 9]], (1, 2)))
    prompts = [[20, 1, 2], [30, 7], [40, 2, 9, 2], [50, 50]]
    alone = []
    for prompt in prompts:
        engine = Engine(without_network(make_settings(FLAT), table=table), cycle, rows=1)
        engine.serve([prompt], [40])
        alone += engine.drafts
    engine = Engine(without_network(make_settings(FLAT), table=table), cycle, rows=4)
    engine.serve(prompts, [40] * 4)
    assert sorted(engine.drafts) == sorted(alone)


@pytest.mark.parametrize("slots", [8, 2])
def test_network_reads_each_text_as_it_is(tokenizer, slots: int) -> None:
    """A cache with a rejected token, or another text's, drafts other tokens than the network without a cache."""
    model = make_model(tokenizer, layers=2)

    def target(text: list[int]) -> int:  # differs from the drafter at every fifth token
        return (next_token(model, text) + (len(text) % 5 == 0)) % 400

    network = BatchedNetwork(model, None, int8=False, slots=slots, context=64)
    drafter = BatchDrafter(network, None, make_settings(FLAT, step=1e-6, sources=["network"]), "cpu", clock=None)
    engine = Engine(drafter, target, rows=4, seed=1)
    engine.serve([[number, 7, 300 - number] for number in range(20, 32)], [20 + number for number in range(12)])
    drafted = [(text, draft) for text, draft in engine.drafts if draft]
    assert len(drafted) > (20 if slots == 2 else 60)
    for text, draft in drafted:
        for token in draft:
            assert token == next_token(model, text)
            text.append(token)
    assert engine.accepted > 0.5 * sum(len(draft) for _, draft in drafted)


def test_network_reads_a_window_of_the_prompt(tokenizer) -> None:
    """A network that was trained on a window at the prompt's end must get that window, as in the loop."""
    model = make_model(tokenizer, layers=2)
    model.config.prompt_window = 6
    network = BatchedNetwork(model, None, int8=False, slots=2, context=16)
    drafter = BatchDrafter(network, None, make_settings(FLAT, step=1e-6, sources=["network"]), "cpu", clock=None)
    prompt = list(range(100, 140))  # longer than the network's context
    texts = [[*prompt, 7], [*prompt, 7, 8, 9]]
    for text in texts:
        (draft,) = draft_for(drafter, text)
        assert len(draft) == LONGEST
        seen = text[:1] + text[len(texts[0]) - 6 :]
        for token in draft:
            assert token == next_token(model, seen)
            seen.append(token)


def test_text_beyond_the_networks_context_goes_on_without_it(tokenizer) -> None:
    """The drafter's context may be shorter than the target's: a longer request must not end the engine."""
    network = BatchedNetwork(make_model(tokenizer, layers=1), None, int8=False, slots=2, context=16)
    drafter = BatchDrafter(network, None, make_settings(FLAT, step=1e-6), "cpu", clock=None)
    Engine(drafter, cycle, rows=2).serve([[10], [20]], [40, 40])
    assert draft_for(drafter, range(100, 140)) == [[]]


def test_nothing_is_drafted_after_an_end() -> None:
    """Tokens after an end of text are verified in vain."""
    drafter = without_network(make_settings(FLAT), end_ids=[7])
    assert draft_for(drafter, [5, 6, 7, 8, 5, 6]) == [[7]]


def test_large_batch_drafts_less() -> None:
    """If each token takes time, its probability must be higher with sixteen requests than with one."""

    def drafted(requests: int) -> float:
        texts = [[100 * number, 1, 2, 3, 100 * number, 1] for number in range(1, requests + 1)]
        return sum(map(len, draft_for(without_network(make_settings(STEEP)), *texts))) / requests

    assert drafted(1) > drafted(4) >= drafted(16) == 0


class SureNetwork:
    """A network that proposes the next number, takes a fixed time, and counts the tokens that it reads."""

    slots, limit, prompt_window, draft_ids = 16, 1000, None, None

    def __init__(self, clock: Clock, seconds: float = 0.0) -> None:
        self.clock, self.seconds, self.tokens = clock, seconds, 0

    def read_batch(self, pieces: list) -> torch.Tensor:
        self.tokens += sum(len(piece.tokens) for piece in pieces)
        self.clock.seconds += self.seconds
        following = torch.tensor([piece.tokens[-1] + 1 for piece in pieces])
        return 20.0 * torch.nn.functional.one_hot(following, 2000).float()


@pytest.mark.parametrize(("requests", "length", "reads"), [(1, 200, True), (16, 200, False), (16, 4, True)])
def test_network_reads_prompts_where_that_pays(requests: int, length: int, reads: bool) -> None:
    """Reading sixteen long prompts for short completions took longer than the drafts saved."""
    network = SureNetwork(Clock())
    settings = make_settings([10 + 0.5 * tokens for tokens in range(17)], 1.0, sources=["network"], network_gain=0.8)
    drafter = BatchDrafter(network, None, settings, "cpu", clock=None)
    draft_for(drafter, *(range(number, number + length) for number in range(requests)), limit=1)
    assert network.tokens == (requests * length if reads else 0)


def test_time_of_drafting_lowers_the_price_of_a_token() -> None:
    """Drafts were cut as if drafting took no time: an engine that drafts yields fewer tokens per second."""
    passes = [40 + 4.0 * tokens for tokens in range(1, 18)]
    drafted = []
    for seconds in (0.0, 0.005):
        ticks = Clock()
        network, settings = SureNetwork(ticks, seconds), make_settings(passes, 1.0, network_gain=0.9)
        settings.calibration["lookup"][:] = [0.29] * 8
        settings.calibration["network"][:] = [0.99] * 20
        drafter = BatchDrafter(network, None, settings, "cpu", clock=ticks)
        length = 8
        for _ in range(150):
            (draft,) = draft_for(drafter, range(length))
            ticks.seconds += passes[len(draft)] / 1000
            length += len(draft) + 1
        assert len(draft) == LONGEST
        network.limit = 0  # only lookup is left
        drafted += draft_for(drafter, [5, 6, 7, 8, 5, 6, 7], limit=1)
    assert drafted == [[], [8]]


def test_drafting_keeps_within_its_time() -> None:
    """Requests for which no time is left get no draft, and come first in the next step."""
    drafter = without_network(make_settings(FLAT), clock=Clock(0.0002))
    texts = [[token + 10 * number for token in (5, 6, 7, 5, 6)] for number in range(64)]
    first = {place for place, draft in enumerate(draft_for(drafter, *texts)) if draft}
    assert 0 < len(first) < 64
    second = draft_for(drafter, *([*text, 999, *text[:2]] for text in texts))
    assert {place for place, draft in enumerate(second) if draft} - first


def test_drafting_that_does_not_pay_pauses() -> None:
    """Where drafting takes more time than it saves, an engine must be as fast as without a drafter."""
    ticks, chance = Clock(0.0002), random.Random(0)
    drafter = without_network(make_settings(FLAT), clock=ticks)
    text, asked = [1, 2], []
    for _ in range(1200):  # lookup always finds something, and is right once in three times
        before = ticks.seconds
        (draft,) = draft_for(drafter, text)
        asked.append(ticks.seconds > before)
        ticks.seconds += 0.0004  # a step takes no longer than drafting
        while True:
            text.append(chance.randrange(3))
            if not draft or text[-1] != draft.pop(0):
                break
    assert all(asked[:64])
    assert 100 < sum(asked) < 300
    assert any(asked[600:])


def test_fewer_requests_end_a_pause() -> None:
    """Drafting that does not pay for eight requests may pay for one."""
    ticks, rows = Clock(0.001), [[number, 1, 2, 3] for number in range(8)]
    drafter = without_network(make_settings(STEEP), clock=ticks)
    for step in range(100):
        rows = [[*row, number + 10 * step] for number, row in enumerate(rows)]
        ticks.seconds += 0.0001
        draft_for(drafter, *rows)
    ticks.pace = 0.0
    repeated = [5, 6, 7, 5, 6]
    assert draft_for(drafter, *rows[:4], repeated)[-1] == []
    assert draft_for(drafter, repeated)[0] != []


def test_repeated_request_is_drafted_from_the_memory() -> None:
    """A completion must be remembered once, in order, and under its own text, whatever happens in the batch."""

    def target(text: list[int]) -> int:  # never repeats itself, so that lookup finds nothing
        return 1000 * (text[0] % 100) + len(text)

    memory = CompletionMemory()
    drafter = without_network(make_settings(FLAT), memory=memory)
    prompts = [[number, 0, 0] for number in range(1, 13)]
    first, again = Engine(drafter, target, rows=4, seed=1), Engine(drafter, target, rows=4)
    outputs = first.serve(prompts, [30] * len(prompts))
    assert first.accepted == 0
    draft_for(drafter, [0, 1])  # a step without the last of them
    assert again.serve(prompts, [30] * len(prompts)) == outputs
    assert again.tokens / again.passes > 0.8 * (LONGEST + 1)
    draft_for(drafter, [0, 1])  # not remembered: the prompts and the first tokens
    assert memory.added <= 2 * sum(map(len, outputs)) + (LONGEST + 1) * 2 * len(prompts)


def test_next_turn_of_a_chat_is_not_remembered_as_output() -> None:
    """The next turn begins with the target's completion; the user's words after it are not the target's."""
    memory = CompletionMemory()
    drafter, other, chat = without_network(make_settings(FLAT), memory=memory), [1], [2, 3]
    for token in range(10, 20):
        chat.append(token)
        draft_for(drafter, other, chat, limit=0)
    for _ in range(2):
        draft_for(drafter, other, limit=0)
    before = memory.added
    chat += [*range(100, 140), 50]  # the user's turn, and the first token of the response
    draft_for(drafter, other, chat, limit=0)
    for token in range(60, 70):
        chat.append(token)
        draft_for(drafter, other, chat, limit=0)
    draft_for(drafter, other, limit=0)
    assert before < memory.added <= before + 12


STORED = [10.0 + 0.5 * tokens for tokens in range(1, 18)]  # milliseconds by tokens


def learned(slope: float, steps: int) -> LinearCostModel:
    """Observe steps of one to nine tokens, of 40 ms and some more for each token."""
    costs = LinearCostModel(STORED)
    for step in range(steps):
        costs.observe(1 + step % 9, 40.0 + slope * (1 + step % 9))
    return costs


def test_costs_move_to_the_engines_level() -> None:
    """Stored times are another machine's: steps of one token give the level, and keep the stored shape."""
    costs = LinearCostModel(STORED)
    for _ in range(100):
        costs.observe(1, 100.0)
    assert costs(1) == pytest.approx(100.0, rel=0.01)
    assert costs.slope == pytest.approx(100.0 * 0.5 / 10.5, rel=0.05)


def test_costs_follow_the_engine() -> None:
    """A wrong price of a token drafts too much or too little; a slow minute must not end drafting for ever."""
    for slope in (0.05, 6.0):
        costs = learned(slope, 200)
        assert costs.slope == pytest.approx(slope, abs=0.2)
        assert costs(5) == pytest.approx(40.0 + 5 * slope, rel=0.02)
    costs = learned(40.0, 50)
    assert costs.slope > 20
    for _ in range(600):
        costs.observe(1, 40.0)
    assert costs.slope < 3
    costs = learned(1.0, 60)
    before = costs(9)
    costs.observe(9, 10_000.0)  # interrupted by another process
    assert costs(9) < 1.2 * before
