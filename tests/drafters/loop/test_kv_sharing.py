"""A network that attends to the target's own keys and values, and texts that do not change by it."""

import copy
from typing import Any

import pytest
import torch
from transformers import DynamicCache, PreTrainedModel, StaticCache

from benchmarks.studies import replay_at_fixed_length
from drafter_trainer.decoding.replay import Costs, SimulatedClock, replay
from drafter_trainer.decoding.rounds import Decoding, decode
from drafter_trainer.decoding.target_cache import TargetTexts
from drafter_trainer.drafters.loop.calls import CACHE
from drafter_trainer.drafters.loop.generate import attach_loop
from drafter_trainer.drafters.loop.network import LeanNetwork
from drafter_trainer.tuning.calibration import calibrate
from drafter_trainer.tuning.completions import HeldOut
from tests.decoding.drafts import partly_agreeing, sliding_model
from tests.decoding.lossless import TOY_DRAFT_LENGTH, check_sampled
from tests.drafters.loop.conftest import (
    FLAT,
    PROMPTS,
    SLIDING,
    calibration,
    greedy_answers,
    make_loop,
    make_settings,
    with_loop,
)
from tests.drafters.loop.test_network import CONFIGS, TOKENS, make


def sharing(target: PreTrainedModel, noise: float = 0.015) -> PreTrainedModel:
    """Make a drafter whose layers attend to those of a target that they were copied from."""
    drafter = partly_agreeing(target, noise)
    drafter.config.kv_sharing_layers = list(range(drafter.config.num_hidden_layers))
    return drafter


def make_sharing(name: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Make a drafter of a family and a target whose keys and values it attends to."""
    model, target = (make(copy.deepcopy(CONFIGS[name])) for _ in range(2))
    with torch.no_grad():
        for weight in target.parameters():
            weight.mul_(1.1)
    model.config.kv_sharing_layers = [0, 1] if getattr(model.config, "layer_types", None) else [1, 0]
    return model, target


@torch.inference_mode()
def cache_of(target: PreTrainedModel, tokens: list[int], **given: Any) -> Any:
    """Read tokens with a target as `generate` does."""
    cache = DynamicCache(config=target.config)
    for layer in cache.layers:
        if hasattr(layer, "activate_past_recording"):
            layer.activate_past_recording()
    target(input_ids=torch.tensor([tokens]), **{CACHE: cache}, use_cache=True)
    return cache


@pytest.mark.parametrize("name", ["llama", "mistral with windows", "qwen3", "gemma3"])
def test_a_network_attends_to_the_targets_keys(name: str) -> None:
    """Prevent keys at other places, of other layers, or of the network's own, also beyond an attention's window."""
    model, target = make_sharing(name)
    network, shared = LeanNetwork(model), 0
    network.read(TOKENS[:3])  # alone, at places that the target's keys then take
    for verified in (4, 7, 9):
        assert network.share(cache_of(target, TOKENS[:verified]), shared, verified)
        shared = verified
        drafted = TOKENS[verified : verified + 3]
        cache, mapped = cache_of(target, TOKENS[:verified]), DynamicCache()
        for index, layer in enumerate(model.config.kv_sharing_layers):
            mapped.update(cache.layers[layer].keys, cache.layers[layer].values, index)
        for token in drafted:
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([[token]]), **{CACHE: mapped}).logits[0, -1]
            torch.testing.assert_close(network.read([token]), logits, atol=1e-4, rtol=0)
        assert network.length == verified + 3


def test_what_does_not_fit_is_left_alone(target_model: PreTrainedModel) -> None:
    """Prevent keys of other tokens, or of other shapes, from being drafted with, or from ending decoding."""
    network = LeanNetwork(sharing(target_model))
    network.read(TOKENS[:4])
    cache, shallow, narrow = cache_of(target_model, TOKENS[:6]), DynamicCache(), DynamicCache()
    static = StaticCache(config=target_model.config, max_cache_len=32)
    with torch.inference_mode():
        target_model(input_ids=torch.tensor([TOKENS[:6]]), **{CACHE: static})
    shallow.update(cache.layers[0].keys, cache.layers[0].values, 0)
    for index, layer in enumerate(cache.layers):
        narrow.update(layer.keys[..., :-1], layer.values[..., :-1], index)
    assert not network.share(cache, 0, 5)
    assert not any(network.share(other, 0, 6) for other in (DynamicCache(), static, shallow, narrow))
    assert network.length == 4
    assert not LeanNetwork(partly_agreeing(target_model, 0.015)).share(cache, 0, 6)


def decodings(target: PreTrainedModel, drafter: PreTrainedModel | None, tokens: int = 24) -> list[Decoding]:
    method = {} if drafter is None else {"assistant_model": drafter}
    return [decode(target, prompt, method, 0.0, 0, tokens) for prompt in PROMPTS]


@pytest.mark.parametrize("sliding", [False, True], ids=["full", "beyond the window"])
def test_greedy_output_is_the_targets(target_model: PreTrainedModel, sliding: bool, monkeypatch: Any) -> None:
    """Prevent a text from changing; and prevent a loop that never gets the cache from going unnoticed."""
    target = sliding_model(400, SLIDING) if sliding else target_model
    target.generation_config.eos_token_id = None
    taken, right = [], LeanNetwork.share

    def noting(self: LeanNetwork, cache: Any, start: int, end: int) -> bool:
        taken.append(right(self, cache, start, end))
        return taken[-1]

    monkeypatch.setattr(LeanNetwork, "share", noting)
    settings = make_settings(sources=["network"], calibration=calibration(network=0.9))
    drafter = with_loop(sharing(target, 0.0), settings)
    expected, decoded = decodings(target, None), decodings(target, drafter)
    assert [each.output_ids for each in decoded] == [each.output_ids for each in expected]
    # In each text's first round the target has read nothing yet.
    assert taken.count(False) <= len(PROMPTS)
    assert taken.count(True) == sum(len(each.rounds) for each in decoded) - len(PROMPTS)
    # The target's own layers on its own keys are the target.
    assert all(not round_.rejected for each in decoded for round_ in each.rounds[1:])


def test_sampled_answers_have_the_targets_distribution(toy_target: PreTrainedModel) -> None:
    """Prevent keys that were taken over from changing what is sampled."""
    trust = calibration(network=0.7)
    settings = make_settings(longest_draft=TOY_DRAFT_LENGTH, calibration=trust, sources=["network"])
    drafter = with_loop(sharing(toy_target, 0.1), settings)
    check_sampled(toy_target, {"assistant_model": drafter})


def test_replays_are_decoding(target_model: PreTrainedModel) -> None:
    """Prevent settings and comparisons of drafters from resting on another network than the one that drafts."""
    target_model.generation_config.eos_token_id = None
    answers, texts = greedy_answers(target_model, PROMPTS, 24), TargetTexts(target_model)
    drafter = sharing(target_model)
    drafter.config.prompt_window = 2  # in the first round alone
    settings = make_settings(sources=["network"], longest_draft=4, calibration=calibration(network=0.9))
    attach_loop(drafter, make_loop(settings, LeanNetwork(drafter), size=drafter.config.vocab_size))
    decoded = [round_ for each in decodings(target_model, drafter) for round_ in each.rounds]
    loop = make_loop(settings, LeanNetwork(drafter), size=drafter.config.vocab_size)
    known = [(prompt, answer, 24) for prompt, answer in zip(PROMPTS, answers)]
    costs = Costs(plain=1.0, prompt=1.0, passes=FLAT, sampling_passes=FLAT, step=0.0)
    assert replay(loop, known, costs, SimulatedClock(), target=texts).rounds == decoded
    assert replay(loop, known, costs, SimulatedClock()).rounds != decoded
    pairs = list(zip(PROMPTS, answers))
    rounds = replay_at_fixed_length(LeanNetwork(drafter), pairs, 4, target=texts)
    assert [round_.accepted for round_ in rounds] == [round_.accepted for round_ in decoded]


def test_calibration_is_of_the_shared_keys(target_model: PreTrainedModel) -> None:
    """Prevent probabilities that were measured of a network with keys of its own."""
    drafter = sharing(target_model, 0.0)
    drafter.config.prompt_window = 1
    (answer,) = greedy_answers(target_model, PROMPTS[:1], 24)
    held_out = HeldOut(PROMPTS[0], answer, 24, 0.0, torch.zeros(24, 1).numpy(), torch.zeros(24, 1).numpy())
    network = LeanNetwork(drafter)
    shared = calibrate([held_out], None, network, TargetTexts(target_model))["network"]
    alone = calibrate([held_out], None, network)["network"]
    assert sum(shared) > sum(alone)
