"""A network that drafts several tokens in one forward pass: what it reads and drafts, and that no text changes."""

import pytest
import torch
from transformers import PretrainedConfig, PreTrainedModel

from benchmarks.studies import replay_at_fixed_length
from drafter_trainer.decoding.metrics import alpha
from drafter_trainer.drafters.loop.generate import attach_loop
from drafter_trainer.drafters.loop.network import LeanNetwork
from drafter_trainer.drafters.loop.settings import default_calibration
from drafter_trainer.drafters.loop.stock import StockNetwork
from drafter_trainer.drafters.ngram import count_table
from drafter_trainer.tuning.calibration import HeldOut, calibrate
from tests.decoding.drafts import partly_agreeing, sliding_model
from tests.decoding.lossless import TOY_DRAFT_LENGTH, check_greedy, check_sampled
from tests.drafters.loop.conftest import (
    PROMPTS,
    SLIDING,
    FakeNetwork,
    calibration,
    make_loop,
    make_settings,
    with_loop,
)
from tests.drafters.loop.test_drafting import tokens_of
from tests.drafters.loop.test_network import CONFIGS, TOKENS, make

MASK = 3


def with_masks(model: PreTrainedModel, tokens: int = 3) -> PreTrainedModel:
    """Let a model draft several tokens in one pass, whatever it makes of the masks."""
    model.config.parallel_tokens, model.config.pard_token = tokens, MASK
    return model


def masked_logits(model: PreTrainedModel, known: list[int], masks: int) -> torch.Tensor:
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[*known, *[MASK] * masks]]), use_cache=False).logits[0]
    return logits[len(known) - 1 :]


# Single tokens, several, a crop into what was read, none at all, and beyond the window of a sliding model
STEPS = [(0, TOKENS[:6]), (99, TOKENS[6:7]), (99, TOKENS[7:10]), (8, [1, 2]), (9, [4]), (0, TOKENS[:9]), (99, [5])]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("kind", [LeanNetwork, StockNetwork])
def test_masks_are_read_behind_the_text_and_forgotten(config: PretrainedConfig, kind: type) -> None:
    """Prevent masks that stay in the cache, or stand elsewhere than in training."""
    if (model := make(config)).config.model_type not in ("llama", "gemma3_text") and kind is StockNetwork:
        pytest.skip("the modules are transformers' own")
    network, known = kind(with_masks(model)), []
    for length, tokens in STEPS:
        network.crop(length)
        known = known[:length] + [token % config.vocab_size for token in tokens]
        logits = network.read_ahead(known[network.length :])
        torch.testing.assert_close(logits, masked_logits(model, known, 2), atol=1e-4, rtol=0)
        assert network.length == len(known)
    logits = network.read([7])  # one token alone, as engines do
    torch.testing.assert_close(logits, masked_logits(model, [*known, 7], 0)[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", [LeanNetwork, StockNetwork])
def test_masks_end_where_the_context_does(kind: type) -> None:
    """Prevent a text that just fits into the context from being refused for its masks."""
    model = with_masks(make(CONFIGS["llama"]), 4)
    network, limit = kind(model), model.config.max_position_embeddings
    text = (TOKENS * limit)[:limit]
    for known in (limit - 2, limit):
        logits = network.read_ahead(text[network.length : known])
        torch.testing.assert_close(logits, masked_logits(model, text[:known], limit - known), atol=1e-4, rtol=0)


def test_one_pass_drafts_several_tokens() -> None:
    """Prevent a pass for each token where one has told them all."""
    network = FakeNetwork(lambda known: (known[-1] + 1) % 50)
    network.parallel_tokens = 3
    loop = make_loop(make_settings(sources=["network"], longest_draft=5), network)
    assert tokens_of(loop.draft([1, 2], 3)) == [3, 4, 5]
    assert network.reads == [[1, 2]]
    # Behind what the pass has told the next one reads what is drafted.
    assert tokens_of(loop.draft([1, 2, 3, 4, 5, 6], 5)) == [7, 8, 9, 10, 11]
    assert network.reads == [[1, 2], [3, 4, 5, 6], [7, 8, 9]]


def test_other_sources_draft_between() -> None:
    """Prevent what was told behind one token from being drafted behind another."""
    trust = calibration(ngram=0.9, network=0.5)
    network = FakeNetwork(lambda known: (known[-1] + 1) % 50)
    network.parallel_tokens = 2
    settings = make_settings(sources=["ngram", "network"], calibration=trust)
    loop = make_loop(settings, network, count_table([[7, 30]] * 9, (1,), min_share=0.0))
    assert tokens_of(loop.draft([1, 7], 4)) == [30, 31, 32, 33]
    assert network.reads == [[1, 7], [30], [31, 32]]


@pytest.mark.parametrize("kind", [LeanNetwork, StockNetwork])
def test_greedy_output(target_model: PreTrainedModel, kind: type) -> None:
    """Prevent a drafted token from answering in the target's place, and one pass from reading another text."""
    for target, prompts in ((target_model, PROMPTS), (sliding_model(50, SLIDING), [list(range(3, 20)), [5, 6, 7]])):
        drafter = with_masks(partly_agreeing(target, 0.015), 4)
        loop = make_loop(make_settings(sources=["network"]), kind(drafter), size=target.config.vocab_size)
        attach_loop(drafter, loop)
        assert 0 < alpha(check_greedy(target, drafter, prompts, 20)) < 1


def test_sampled_answers_have_the_targets_distribution(toy_target: PreTrainedModel) -> None:
    """Prevent a q that was drawn from for another place of the draft."""
    drafter = with_masks(partly_agreeing(toy_target, 0.1), 3)
    trust = calibration(network=0.7)
    with_loop(drafter, make_settings(longest_draft=TOY_DRAFT_LENGTH, calibration=trust, sources=["network"]))
    check_sampled(toy_target, {"assistant_model": drafter})


def test_replay_drafts_as_the_loop_does() -> None:
    """Prevent figures of a network that reads one token at a time where it drafts several."""
    network = FakeNetwork(lambda known: (known[-1] + 1) % 50)
    network.parallel_tokens = 3
    (first, second) = replay_at_fixed_length(network, [([1, 2], [3, 4, 5, 6, 9, 10])], 5)
    assert (first.drafted, first.accepted, second.drafted) == (5, 4, 0)
    assert network.reads == [[1, 2], [3, 4, 5]]


def test_calibration_sees_what_a_pass_tells() -> None:
    """Prevent bins that know the first token of a pass alone, which is the surest."""
    network = FakeNetwork(lambda known: (known[-1] + 1) % 50)
    answer = HeldOut([1, 2], [3, 4, 9], 8, 0.0, None, None)
    observed, before = {}, default_calibration()["network"][-1]
    for network.parallel_tokens in (1, 3):
        network.crop(0)
        observed[network.parallel_tokens] = calibrate([answer], None, network)["network"][-1]
    # Alone: 3 and 4 are right, 5 is not. In passes: 3, 4 and not 5; 4 and not 5; not 5. The prior counts four.
    assert observed == pytest.approx({1: (2 + 4 * before) / 7, 3: (3 + 4 * before) / 10})
