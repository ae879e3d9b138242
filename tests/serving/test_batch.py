"""Drafts for the requests of a batch, served as an engine serves them."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch

from drafter_trainer.drafters.loop.sources import NgramTable
from drafter_trainer.drafters.memory import CompletionMemory
from drafter_trainer.drafters.ngram import count_table
from drafter_trainer.serving.batch import BatchDrafter
from drafter_trainer.serving.network import BatchedNetwork
from tests.conftest import make_model
from tests.drafters.loop.conftest import FLAT, Clock, make_settings

STEEP = [10.0 + 4.0 * tokens for tokens in range(17)]
LONGEST = 4


class Engine:
    """Serve requests as vLLM does: rows move, requests come, go, are preempted, and are read in parts."""

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
    """A target that writes a request's own seven tokens in turn, each ten apart from those of other requests."""
    first = text[0] // 10 * 10
    return first + (text[-1] - first + 1) % 7


def test_no_draft_leaks_into_another_request() -> None:
    """A state that is taken for another row's drafts that request's text; tokens of no request but its own appear."""
    drafter = BatchDrafter(None, None, make_settings(FLAT), "cpu", clock=None)
    engine = Engine(drafter, cycle, rows=6, seed=0)
    prompts = [[10 * number, *([10 * number + 3] * (number % 3))] for number in range(1, 60)]
    engine.serve(prompts, [5 + number % 30 for number in range(59)])
    for text, draft in engine.drafts:
        assert {token // 10 for token in draft} <= {text[0] // 10}
    assert engine.accepted > engine.passes  # it drafts all the same
    # Nothing of requests that are gone is kept for long.
    for _ in range(70):
        drafter.draft([np.array([1, 2], dtype=np.int32)], [4])
    assert len(drafter._texts) == 1


def test_batch_drafts_what_each_request_alone_gets() -> None:
    """A request that is drafted for otherwise in a batch than alone shows a state that is not its own."""
    table = NgramTable(count_table([[1, 2, 3, 4, 5], [7, 2, 9, 9, 9]], (1, 2)))
    prompts = [[20, 1, 2], [30, 7], [40, 2, 9, 2], [50, 50]]
    alone = []
    for prompt in prompts:
        engine = Engine(BatchDrafter(None, table, make_settings(FLAT), "cpu", clock=None), cycle, rows=1)
        engine.serve([prompt], [40])
        alone += engine.drafts
    engine = Engine(BatchDrafter(None, table, make_settings(FLAT), "cpu", clock=None), cycle, rows=4)
    engine.serve(prompts, [40] * 4)
    assert sorted(engine.drafts) == sorted(alone)


@pytest.mark.parametrize("slots", [8, 2])
def test_network_reads_each_text_as_it_is(tokenizer, slots: int) -> None:
    """A cache that keeps a rejected token, or another text's, drafts something else than the same network afresh."""
    model = make_model(tokenizer, layers=2)

    @torch.inference_mode()
    def successor(text: list[int]) -> int:
        return int(model(input_ids=torch.tensor([text]), use_cache=False).logits[0, -1].argmax())

    def target(text: list[int]) -> int:  # differs from the drafter at every fifth token
        return (successor(text) + (len(text) % 5 == 0)) % 400

    network = BatchedNetwork(model, None, int8=False, slots=slots, context=64)
    drafter = BatchDrafter(network, None, make_settings(FLAT, step=1e-6, sources=["network"]), "cpu", clock=None)
    engine = Engine(drafter, target, rows=4, seed=1)
    prompts = [[number, 7, 300 - number] for number in range(20, 32)]
    engine.serve(prompts, [20 + number for number in range(12)])
    drafted = [(text, draft) for text, draft in engine.drafts if draft]
    assert len(drafted) > (20 if slots == 2 else 60)
    for text, draft in drafted:
        for token in draft:
            assert token == successor(text)
            text.append(token)
    assert engine.accepted > 0.5 * sum(len(draft) for _, draft in drafted)


def test_network_reads_a_window_of_the_prompt(tokenizer) -> None:
    """A network that was trained on a window at the prompt's end must be given that window, as the loop gives it."""
    model = make_model(tokenizer, layers=2)
    model.config.prompt_window = 6
    network = BatchedNetwork(model, None, int8=False, slots=2, context=16)
    drafter = BatchDrafter(network, None, make_settings(FLAT, step=1e-6, sources=["network"]), "cpu", clock=None)
    prompt = list(range(100, 140))  # longer than the network's context
    texts = [[*prompt, 7], [*prompt, 7, 8, 9]]
    for text in texts:
        (draft,) = drafter.draft([np.array(text, dtype=np.int32)], [4])
        assert len(draft) == 4
        seen = text[:1] + text[len(texts[0]) - 6 :]
        for token in draft:
            with torch.inference_mode():
                expected = model(input_ids=torch.tensor([seen]), use_cache=False).logits[0, -1].argmax()
            assert token == expected
            seen.append(token)


def test_text_beyond_the_networks_context_goes_on_without_it(tokenizer) -> None:
    """The drafter's context may be shorter than the target's: a request that passes it must not end the engine."""
    network = BatchedNetwork(make_model(tokenizer, layers=1), None, int8=False, slots=2, context=16)
    drafter = BatchDrafter(network, None, make_settings(FLAT, step=1e-6), "cpu", clock=None)
    Engine(drafter, cycle, rows=2).serve([[10], [20]], [40, 40])
    assert drafter.draft([np.arange(100, 140, dtype=np.int32)], [4]) == [[]]


def test_nothing_is_drafted_behind_an_end() -> None:
    """Tokens behind an end of text are verified in vain."""
    drafter = BatchDrafter(None, None, make_settings(FLAT), "cpu", end_ids=[7], clock=None)
    assert drafter.draft([np.array([5, 6, 7, 8, 5, 6], dtype=np.int32)], [4]) == [[7]]


def test_large_batch_drafts_less() -> None:
    """Where each token more takes its time, sixteen requests must promise more for it than one."""

    def drafted(requests: int) -> float:
        drafter = BatchDrafter(None, None, make_settings(STEEP), "cpu", clock=None)
        rows = [
            np.array([100 * number, 1, 2, 3, 100 * number, 1], dtype=np.int32) for number in range(1, requests + 1)
        ]
        return sum(map(len, drafter.draft(rows, [4] * requests))) / requests

    assert drafted(1) > drafted(4) >= drafted(16)
    assert drafted(16) == 0


class AskedNetwork:
    """A network that counts the tokens that it reads, and knows nothing."""

    slots, limit, prompt_window, draft_ids = 16, 1000, None, None

    def __init__(self) -> None:
        self.read = 0

    def read_batch(self, pieces: list) -> torch.Tensor:
        self.read += sum(len(piece.tokens) for piece in pieces)
        return torch.zeros(len(pieces), 400)


@pytest.mark.parametrize(("requests", "length", "reads"), [(1, 200, True), (16, 200, False), (16, 4, True)])
def test_network_reads_prompts_where_that_pays(requests: int, length: int, reads: bool) -> None:
    """Reading sixteen long prompts for short answers took longer than the drafts saved."""
    network = AskedNetwork()
    settings = make_settings([10 + 0.5 * tokens for tokens in range(17)], 1.0, sources=["network"], network_gain=0.8)
    drafter = BatchDrafter(network, None, settings, "cpu", clock=None)
    rows = [np.arange(number, number + length, dtype=np.int32) for number in range(requests)]
    drafter.draft(rows, [1] * requests)
    assert network.read == (requests * length if reads else 0)


class SureNetwork(AskedNetwork):
    """A network that proposes the next number, and takes a fixed time for it."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def read_batch(self, pieces: list) -> torch.Tensor:
        self.clock.seconds += self.seconds
        following = torch.tensor([piece.tokens[-1] + 1 for piece in pieces])
        return 20.0 * torch.nn.functional.one_hot(following, 2000).float()


def test_time_of_drafting_lowers_the_price_of_a_token() -> None:
    """Drafts were cut as if drafting took no time: an engine that drafts yields fewer tokens a second."""
    passes = [40 + 4.0 * tokens for tokens in range(1, 18)]
    drafted = []
    for took in (0.0, 0.005):
        ticks = Clock()
        network, settings = SureNetwork(ticks, took), make_settings(passes, 1.0, network_gain=0.9)
        settings.calibration["lookup"][:] = [0.29] * 8
        settings.calibration["network"][:] = [0.99] * 20
        drafter = BatchDrafter(network, None, settings, "cpu", clock=ticks)
        length = 8
        for _ in range(150):
            (draft,) = drafter.draft([np.arange(length, dtype=np.int32)], [4])
            ticks.seconds += passes[len(draft)] / 1000
            length += len(draft) + 1
        assert len(draft) == 4
        network.limit = 0  # lookup is left alone
        drafted.append(drafter.draft([np.array([5, 6, 7, 8, 5, 6, 7], dtype=np.int32)], [1])[0])
    assert drafted == [[], [8]]


def test_drafting_keeps_within_its_time() -> None:
    """Requests for which no time is left go undrafted, and come first in the next step."""
    drafter = BatchDrafter(None, None, make_settings(FLAT), "cpu", clock=Clock(0.0002))
    rows = [np.array([5, 6, 7, 5, 6], dtype=np.int32) + 10 * number for number in range(64)]
    drafts = drafter.draft(rows, [4] * 64)
    got = [{place for place, draft in enumerate(drafts) if draft}]
    assert 0 < len(got[0]) < 64
    rows = [np.append(row, np.int32(999)) for row in rows]
    rows = [np.append(row, row[:2]) for row in rows]
    drafts = drafter.draft(rows, [4] * 64)
    got.append({place for place, draft in enumerate(drafts) if draft})
    assert got[1] - got[0]


def test_drafting_that_does_not_pay_is_given_up_for_a_while() -> None:
    """Where drafting takes more time than it saves, an engine must be as fast as without a drafter."""
    ticks, chance = Clock(0.0002), random.Random(0)
    drafter = BatchDrafter(None, None, make_settings(FLAT), "cpu", clock=ticks)
    text, asked, draft = [1, 2], [], []
    for _ in range(1200):  # lookup always finds something, and is right once in three times
        before = ticks.seconds
        draft = drafter.draft([np.array(text, dtype=np.int32)], [4])[0]
        asked.append(ticks.seconds > before)
        ticks.seconds += 0.0004  # a step takes no longer than drafting
        while True:
            text.append(chance.randrange(3))
            if not draft or text[-1] != draft.pop(0):
                break
    assert all(asked[:64])
    assert 100 < sum(asked) < 300
    assert any(asked[600:])


def test_fewer_requests_end_a_rest() -> None:
    """What did not pay for eight requests pays for one: it must not go undrafted for what those eight did."""
    ticks, rows = Clock(0.001), [np.array([number, 1, 2, 3], dtype=np.int32) for number in range(8)]
    drafter = BatchDrafter(None, None, make_settings(STEEP), "cpu", clock=ticks)
    for step in range(100):
        rows = [np.append(row, np.int32(number + 10 * step)) for number, row in enumerate(rows)]
        ticks.seconds += 0.0001
        drafter.draft(rows, [4] * 8)
    ticks.pace = 0.0
    repeated = np.array([5, 6, 7, 5, 6], dtype=np.int32)
    assert drafter.draft([*rows[:4], repeated], [4] * 5)[-1] == []
    assert drafter.draft([repeated], [4])[0] != []


def test_request_that_comes_again_is_drafted_from_the_memory() -> None:
    """What a request wrote must be remembered once, in order, whatever the batch did to it, and under its own text."""

    def target(text: list[int]) -> int:  # never repeats itself, so that a request's own text tells nothing
        return 1000 * (text[0] % 100) + len(text)

    memory = CompletionMemory()
    drafter = BatchDrafter(None, None, make_settings(FLAT), "cpu", clock=None, memory=memory)
    prompts = [[number, 0, 0] for number in range(1, 13)]
    first, again = Engine(drafter, target, rows=4, seed=1), Engine(drafter, target, rows=4)
    outputs = first.serve(prompts, [30] * len(prompts))
    assert first.accepted == 0
    drafter.draft([np.array([0, 1], dtype=np.int32)], [4])  # a step without the last of them
    assert again.serve(prompts, [30] * len(prompts)) == outputs
    assert again.tokens / again.passes > 0.8 * (LONGEST + 1)
    # All but what was known before the first draft: the prompt, and the first token.
    drafter.draft([np.array([0, 1], dtype=np.int32)], [4])
    assert memory.added <= 2 * sum(map(len, outputs)) + (LONGEST + 1) * 2 * len(prompts)


def test_next_turn_of_a_chat_is_not_remembered_as_output() -> None:
    """A chat that goes on begins with what the target wrote: what the user adds must not be counted as its words."""
    memory = CompletionMemory()
    drafter = BatchDrafter(None, None, make_settings(FLAT), "cpu", clock=None, memory=memory)
    other, chat = [1], [2, 3]

    def step(*texts: list[int]) -> None:
        drafter.draft([np.array(text, dtype=np.int32) for text in texts], [0] * len(texts))

    for token in range(10, 20):
        chat.append(token)
        step(other, chat)
    step(other)
    step(other)
    before = memory.added
    chat += [*range(100, 140), 50]  # the user's turn, and the first token of the answer
    step(other, chat)
    for token in range(60, 70):
        chat.append(token)
        step(other, chat)
    step(other)
    assert before < memory.added <= before + 12
