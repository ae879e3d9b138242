"""Replaying known completions."""

import itertools
from collections.abc import Callable

import pytest
from transformers import PreTrainedModel

from benchmarks.studies import replay_at_fixed_length
from drafter_trainer.decoding.metrics import Round
from drafter_trainer.decoding.replay import Costs, SimulatedClock, replay
from drafter_trainer.decoding.rounds import decode
from drafter_trainer.drafters.loop.drafting import DraftingLoop
from drafter_trainer.drafters.loop.generate import attach_loop
from drafter_trainer.drafters.loop.network import LeanNetwork
from drafter_trainer.drafters.loop.settings import LoopSettings
from drafter_trainer.drafters.loop.sources import SOURCES
from drafter_trainer.drafters.ngram import count_table
from tests.decoding.drafts import partly_agreeing
from tests.drafters.loop.conftest import PROMPTS, FakeNetwork, calibration, greedy_answers, make_loop, make_settings

COSTS = [1000.0, 1100.0, 1400.0, 1500.0, 1550.0, 1800.0, 1850.0]
TOKENS = 24
PROMPT = 3000.0


@pytest.fixture(autouse=True)
def standing_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the clock: on a busy machine, the simulated clock would count its pauses."""
    monkeypatch.setattr("time.perf_counter", lambda: 100.0)


def costs_of(passes: list[float]) -> Costs:
    return Costs(plain=passes[0], prompt=PROMPT, passes=passes, sampling_passes=passes, step=0.0)


def make(
    target_model: PreTrainedModel, settings: LoopSettings, clock: Callable[[], float], slots: dict | None = None
) -> tuple[PreTrainedModel, DraftingLoop]:
    drafter = partly_agreeing(target_model, 0.015)
    loop = make_loop(settings, LeanNetwork(drafter), slots, drafter.config.vocab_size, clock)
    attach_loop(drafter, loop)
    return drafter, loop


@pytest.mark.parametrize("sources", [["lookup"], ["ngram"], ["network"], list(SOURCES)], ids="+".join)
def test_replayed_rounds_are_those_of_decoding(target_model: PreTrainedModel, sources: list[str]) -> None:
    """Tuning chooses settings by replay: its rounds must be those of decoding."""
    target_model.generation_config.eos_token_id = None
    answers = greedy_answers(target_model, PROMPTS, TOKENS)
    slots = count_table([[*prompt, *answer] for prompt, answer in zip(PROMPTS[1:], answers[1:])], (1, 2))
    settings = make_settings(COSTS, sources=sources, longest_draft=5, calibration=calibration(0.6, 0.5, 0.7))
    # Both measure the same costs from a clock that advances by a fixed amount at each reading.
    drafter, _ = make(target_model, settings, itertools.count(step=1.5).__next__, slots)
    decoded: list[list[Round]] = []
    for prompt, answer in zip(PROMPTS, answers):
        decoding = decode(target_model, prompt, {"assistant_model": drafter}, 0.0, 0, TOKENS)
        assert decoding.output_ids == answer
        decoded.append(decoding.rounds)
    _, loop = make(target_model, settings, itertools.count(step=1.5).__next__, slots)
    known = [(prompt, answer, TOKENS) for prompt, answer in zip(PROMPTS, answers)]
    replayed = replay(loop, known, costs_of(COSTS), SimulatedClock())
    assert replayed.rounds == [round_ for rounds in decoded for round_ in rounds]
    assert replayed.tokens == len(PROMPTS) * TOKENS
    assert len(replayed.rounds) < replayed.tokens
    assert any(round_.rejected for round_ in replayed.rounds)
    # The first pass of each completion reads its prompt.
    firsts = [rounds[0] for rounds in decoded]
    passes = sum(COSTS[round_.drafted] for rounds in decoded for round_ in rounds[1:]) + len(firsts) * PROMPT
    assert replayed.milliseconds - replayed.drafting_milliseconds == pytest.approx(passes)
    plain = (replayed.tokens - len(firsts)) * COSTS[0] + len(firsts) * PROMPT
    assert replayed.plain_milliseconds == pytest.approx(plain)


def test_drafts_end_where_decoding_would_end_them() -> None:
    """While decoding, the end of a completion is not known: drafts must not stop there."""
    settings = make_settings(sources=["lookup"], longest_draft=8, calibration=calibration(lookup=0.9))

    def rounds(response: list[int], max_new_tokens: int, end_ids: tuple[int, ...] = ()) -> list[Round]:
        clock = SimulatedClock()
        loop = make_loop(settings, size=400, clock=clock)
        return replay(loop, [([1, 2, 1, 2], response, max_new_tokens)], costs_of([10.0] * 9), clock, end_ids).rounds

    assert rounds([1, 2, 1, 2, 1], 5) == [Round(4, 4, rejected=False)]
    # The completion ends before its draft: the later tokens were drafted and verified too.
    assert rounds([1, 2, 1], 30) == [Round(8, 2, rejected=False)]
    assert rounds([1, 2], 30, end_ids=(2,)) == [Round(2, 1, rejected=False)]
    assert rounds([1], 1) == [Round(0, 0, rejected=False)]


def test_rounds_of_a_fixed_length_by_hand() -> None:
    """Prevent a rejected draft's tokens from staying read, or the last token of a whole draft from being lost."""
    network = FakeNetwork(lambda known: (known[-1] + 1) % 50)
    network.prompt_window = 2
    completions = [([5, 4, 28, 29], [30, 31, 32, 33, 40, 41]), ([7, 8, 9], [10, 2, 3])]
    rounds = replay_at_fixed_length(network, completions, 3, end_ids=[11])
    assert rounds == [
        Round(3, 3, False),
        Round(1, 0, True),  # two tokens are left of a truncated completion
        Round(0, 0, False),
        Round(2, 1, True),  # nothing is drafted after the end token
        Round(0, 0, False),
    ]
