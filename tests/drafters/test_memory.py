"""The memory of a target's completions."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from drafter_trainer.benchmark.methods import build_methods
from drafter_trainer.decoding.replay import Costs, SimulatedClock, replay
from drafter_trainer.decoding.rounds import decode
from drafter_trainer.drafters.load import load_drafter
from drafter_trainer.drafters.loop.generate import loop_of
from drafter_trainer.drafters.memory import ORDERS, CompletionMemory
from drafter_trainer.errors import IncompatibleTokenizerError, InputError
from tests.decoding.drafts import CHAIN_LOGITS, CHAIN_SIZE, chain, chance_of_these_steps, successor_model
from tests.decoding.lossless import IMPROBABLE
from tests.drafters.loop.conftest import PROMPTS, calibration, make_settings, note_sources, with_loop
from tests.drafters.loop.test_generate import generate
from tests.drafters.test_load import swap_two_tokens

TOKENS = 40


def scan(texts: Sequence[Sequence[int]], tail: Sequence[int]) -> tuple[int, int] | None:
    """Find the latest place behind the longest of the known runs the slow way."""
    for bin_, order in enumerate(ORDERS):
        for text in reversed(texts):
            for end in range(len(text) - 1, order - 1, -1):
                if len(tail) >= order and list(text[end - order : end]) == list(tail[-order:]):
                    return text[end], bin_
    return None


@pytest.mark.parametrize("alphabet", [3, 8, 40])
def test_answers_are_those_of_a_scan(alphabet: int) -> None:
    """Prevent a table that is off by one place, or crosses from one text into the next."""
    chance = random.Random(alphabet)
    memory, texts = CompletionMemory(), []
    for _ in range(12):
        prompt, completion = ([chance.randrange(alphabet) for _ in range(chance.randrange(1, 40))] for _ in range(2))
        memory.remember(prompt, completion)
        texts.append([*prompt[-16:], *completion])
        for text in texts:
            tail = text[: chance.randrange(len(text) + 1)][-20:]
            assert memory.propose(tail) == scan(texts, tail)
    assert memory.propose([]) is None


def test_oldest_are_forgotten_within_the_budget() -> None:
    """Prevent a memory that grows with the traffic, or forgets the newest completions."""
    memory, chance = CompletionMemory(2000), random.Random(0)
    texts = [[chance.randrange(100_000) for _ in range(chance.randrange(1, 300))] for _ in range(60)]
    texts.append([*range(5000)])  # longer than the memory
    for text in texts:
        memory.remember([7] * 20, text)
        assert len(memory) <= 2000
        assert memory.propose(text[-3:-1]) == (text[-1], 3) or len(text) < 3
    kept = [text for text in texts if memory.propose(text[-3:-1]) == (text[-1], 3)]
    assert kept == [texts[-1]]
    assert memory.propose([2999, 3000]) is None
    memory.remember([], texts[0])
    assert memory.propose(texts[0][-3:-1]) == (texts[0][-1], 3)


def test_chance_of_acceptance_is_counted() -> None:
    """A length of run that misleads must be trusted less, whatever lookup's calibration says of that length."""
    memory, lookup = CompletionMemory(), [0.5] * 8
    assert memory.calibration(lookup, False) == [0.5] * 4
    memory.remember([], [1, 2, 3] * 10)
    before = memory.calibration(lookup, False)
    for number in range(10):
        memory.remember([], [1, 2, 50 + number])  # known runs of two, other tokens behind them
    assert memory.calibration(lookup, False)[3] < 0.2
    assert memory.calibration(lookup, False)[:3] == before[:3] == [0.5] * 3
    memory.remember([], [1, 2, 3] * 10)
    assert memory.calibration(lookup, False)[0] > 0.8
    assert memory.calibration(lookup, True) == [0.5] * 4


@pytest.fixture
def memory() -> CompletionMemory:
    return CompletionMemory(5000)


@pytest.fixture
def drafter(published, target_model, tokenizer, memory) -> PreTrainedModel:
    return load_drafter(str(published), target_model, tokenizer, follow_clock=False, memory=memory)


def count_passes(target_model: PreTrainedModel, prompt: Sequence[int], **given) -> tuple[list[int], int]:
    """Return the completion of a prompt and the number of the target's passes."""
    passes = []
    with target_model.register_forward_pre_hook(lambda *_: passes.append(1)):
        return generate(target_model, prompt, max_new_tokens=TOKENS, **given), len(passes)


def test_repeated_prompts_take_fewer_passes(target_model, drafter, memory) -> None:
    """What was written before is drafted again from its first token on, and the output stays plain decoding's."""
    for prompt in PROMPTS:
        plain, passes = count_passes(target_model, prompt)
        first = count_passes(target_model, prompt, assistant_model=drafter)
        assert memory.propose([*prompt, *plain[:-1]][-16:])[0] == plain[-1]  # to its last token, at once
        second = count_passes(target_model, prompt, assistant_model=drafter)
        assert first[0] == second[0] == plain
        assert second[1] <= -(-len(plain) // (loop_of(drafter).settings.longest_draft + 1)) + 1 < passes
        assert second[1] < first[1]


def test_interrupted_completions_are_remembered(target_model, drafter, memory, tmp_path) -> None:
    """Prevent an interrupted completion from being lost or counted twice."""

    sent: list[int] = []

    class Leaving(BaseStreamer):
        def put(self, value: torch.Tensor) -> None:
            sent.extend(value.flatten().tolist())
            if len(sent) > len(PROMPTS[1]) + 10:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(target_model, PROMPTS[1], max_new_tokens=TOKENS, assistant_model=drafter, streamer=Leaving())
    memory.save(tmp_path / "memory.safetensors")
    known = len(memory)
    # The round whose tokens it refused is not known.
    assert len(sent) - (loop_of(drafter).settings.longest_draft + 1) <= known < len(sent)
    assert memory.propose(sent[:known][-5:-1])[0] == sent[known - 1]
    assert len(CompletionMemory.load(tmp_path / "memory.safetensors")) == known
    generate(target_model, PROMPTS[0], max_new_tokens=5, assistant_model=drafter)
    assert len(memory) == known + len(PROMPTS[0]) + 5


def test_memory_is_saved_and_loaded(drafter: PreTrainedModel, memory: CompletionMemory, tmp_path: Path) -> None:
    """Prevent the loss of a memory at a restart."""
    chance = random.Random(0)
    texts = [[chance.randrange(300) for _ in range(200)] for _ in range(40)]
    for text in texts:
        memory.remember([1, 2], text)
    memory.save(tmp_path / "memory.safetensors")
    lookup = calibration()["lookup"]
    for loaded in (
        CompletionMemory.load(tmp_path / "memory.safetensors"),
        CompletionMemory.load(str(tmp_path / "memory.safetensors"), max_tokens=2000),
    ):
        assert loaded.calibration(lookup, False) == memory.calibration(lookup, False)
        assert loaded.tokenizer_sha256 == memory.tokenizer_sha256
        assert 0 < len(loaded) <= len(memory)
        for text in texts[-6:]:
            assert [loaded.propose(text[end - 16 : end])[0] for end in range(16, 200)] == text[16:]
    assert loaded.propose(texts[-15][20:36]) is None


def test_foreign_memory_is_refused(drafter, memory, published, target_model, tokenizer, tmp_path) -> None:
    """Prevent drafts from the ids of another tokenizer."""
    other = CompletionMemory()
    with pytest.raises(InputError, match="the memory's tokenizer is unknown: load a drafter with the memory"):
        other.save(tmp_path / "memory.safetensors")
    tokenizer.save_pretrained(tmp_path)
    swap_two_tokens(tmp_path)
    other.bind(AutoTokenizer.from_pretrained(tmp_path))
    with pytest.raises(IncompatibleTokenizerError, match="ids of another tokenizer than the target's"):
        load_drafter(str(published), target_model, tokenizer, memory=other)
    for path in (published / "ngram.safetensors", tmp_path / "missing"):
        with pytest.raises(InputError, match="not a memory"):
            CompletionMemory.load(path)
    with pytest.raises(InputError, match="must be 1024 or more, got 10"):
        CompletionMemory(10)


def test_measurements_start_fresh(target_model, drafter, memory, published, tokenizer) -> None:
    """A benchmark that repeats its questions would measure how well the drafter remembers them."""
    plain = generate(target_model, PROMPTS[1], max_new_tokens=TOKENS, assistant_model=drafter)
    known = len(memory)
    assert known == len(PROMPTS[1]) + TOKENS
    fresh = load_drafter(str(published), target_model, tokenizer, follow_clock=False)
    costs, (loop, other) = Costs(1.0, 1.0, [1.0] * 17, [1.0] * 17, 0.1), map(loop_of, (drafter, fresh))
    answers = [(PROMPTS[1], plain, TOKENS)]
    assert (
        replay(loop, answers, costs, SimulatedClock()).rounds == replay(other, answers, costs, SimulatedClock()).rounds
    )
    measured, expected = (
        {method.name: method.draft_arguments for method in build_methods(model, None, [3], ["network"], 3, ["lookup"])}
        for model in (drafter, fresh)
    )
    for name, given in measured.items():
        one, two = (decode(target_model, PROMPTS[1], given, 0.0, 0, TOKENS) for given in (given, expected[name]))
        assert (one.output_ids, one.rounds) == (two.output_ids, two.rounds)
    assert len(memory) == known
    assert memory.propose(PROMPTS[1])[0] == plain[0]  # as before for its user


def test_sampled_steps_have_the_targets_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevent remembered tokens from becoming more likely."""
    target_model, counts = chain(CHAIN_LOGITS), note_sources(monkeypatch)
    trust = calibration(0.7, 0.7, 0.7)
    drafter = with_loop(
        successor_model(range(CHAIN_SIZE)), make_settings(sources=["lookup"], calibration=trust, longest_draft=4)
    )
    loop_of(drafter).memory = memory = CompletionMemory()
    torch.manual_seed(0)
    given = {"max_new_tokens": 500, "do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    sampled = [generate(target_model, [3], assistant_model=drafter, **given) for _ in range(2)]
    assert counts["memory"] > 100
    assert len(memory) == 2 * 501
    for tokens in sampled:
        assert chance_of_these_steps([3, *tokens], CHAIN_LOGITS.softmax(-1)) > IMPROBABLE
    assert np.all(memory._counts[0] == 0)
