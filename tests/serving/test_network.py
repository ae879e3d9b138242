"""The drafter's network for many texts at once against the model's own forward."""

import pytest
import torch
from transformers import PretrainedConfig

from drafter_trainer.serving.network import BatchedNetwork, Piece, slots_within
from tests.drafters.loop.test_network import CONFIGS, TOKENS, make, stock_logits

# Slots, tokens kept and tokens read: texts of several lengths together, texts that come, go and are cut short
STEPS = [
    [(0, 0, TOKENS[:6]), (2, 0, TOKENS[3:5])],
    [(2, 2, TOKENS[6:7]), (0, 6, TOKENS[6:9]), (1, 0, TOKENS[:1])],
    [(1, 1, [44])],
    [(0, 4, [1, 2]), (1, 2, [50]), (2, 3, [7])],
    [(1, 0, TOKENS + TOKENS[:9]), (0, 6, [33])],  # longer than what is read together
    [(1, 25, [9]), (0, 7, [9])],
]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_logits_are_those_of_each_text_alone(config: PretrainedConfig) -> None:
    """A mask, place or padding that is a little wrong lets texts see each other; only the acceptance would show it."""
    model = make(config)
    network = BatchedNetwork(model, None, int8=False, slots=3, context=64)
    texts: dict[int, list[int]] = {}
    for step in STEPS:
        for slot, kept, tokens in step:
            texts[slot] = texts.get(slot, [])[:kept] + tokens
        logits = network.read_batch([Piece(*piece) for piece in step])
        expected = torch.stack([stock_logits(model, texts[slot]) for slot, *_ in step])
        torch.testing.assert_close(logits, expected.float(), atol=1e-4, rtol=0)


def test_text_fills_its_context_and_no_more() -> None:
    """Padding of a text that fills its context must not overwrite that text."""
    model = make(CONFIGS["llama"])
    network = BatchedNetwork(model, torch.tensor([3, 5, 69]), int8=False, slots=2, context=20)
    network.read_batch([Piece(0, 0, [*TOKENS, 1, 2, 3])])
    logits = network.read_batch([Piece(0, 19, [4]), Piece(1, 0, TOKENS)])
    expected = [stock_logits(model, [*TOKENS, 1, 2, 3, 4]), stock_logits(model, TOKENS)]
    torch.testing.assert_close(logits, torch.stack(expected)[:, [3, 5, 69]], atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="21 tokens exceed the drafter's context of 20"):
        network.read_batch([Piece(0, 20, [5])])


def test_caches_keep_within_their_memory() -> None:
    """Caches for each of an engine's 256 requests would take the memory that the engine wants for its own."""
    model = make(CONFIGS["llama"])  # 2 layers, 2 key-value heads of 8 values, in float32
    a_text = 2 * 2 * 2 * 8 * (100 + 16) * 4
    assert slots_within(model, 3.5 * a_text / 2**30, texts=256, context=100) == 3
    assert slots_within(model, 1.0, texts=5, context=100) == 5
