"""The loop behind `target.generate(assistant_model=drafter)`: the output is the target's."""

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, RepetitionPenaltyLogitsProcessor
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from drafter_trainer.decoding.metrics import Round, alpha
from drafter_trainer.decoding.rounds import decode
from drafter_trainer.drafters.load import with_sources
from drafter_trainer.drafters.loop import generate as generate_module
from drafter_trainer.drafters.loop.calls import CACHE
from drafter_trainer.drafters.loop.generate import attach_loop, loop_of
from drafter_trainer.drafters.loop.network import LeanNetwork
from drafter_trainer.drafters.loop.network_kinds import StockNetwork
from drafter_trainer.drafters.loop.settings import LoopSettings
from drafter_trainer.drafters.loop.sources import SOURCES
from drafter_trainer.drafters.ngram import count_table
from tests.decoding.drafts import (
    CHAIN_LOGITS,
    CHAIN_SIZE,
    chain,
    chance_of_these_steps,
    noisy_chain,
    partly_agreeing,
    set_draft_length,
    sliding_model,
)
from tests.decoding.lossless import (
    IMPROBABLE,
    TOY_DRAFT_LENGTH,
    TOY_PROMPT,
    TOY_SIZE,
    check_greedy,
    check_sampled,
)
from tests.drafters.loop.conftest import (
    PROMPTS,
    SLIDING,
    calibration,
    greedy_answers,
    make_loop,
    make_settings,
    note_sources,
    with_loop,
)

TOKENS = 20


def generate(target_model: PreTrainedModel, prompt: Sequence[int], **given: Any) -> list[int]:
    ids = torch.tensor([list(prompt)])
    given = {"max_new_tokens": TOKENS, "do_sample": False} | given
    return target_model.generate(ids, attention_mask=torch.ones_like(ids), **given)[0, len(prompt) :].tolist()


# Greedy: token for token, in fp32.


@pytest.fixture
def drafter(target_model: PreTrainedModel) -> PreTrainedModel:
    """A drafter that is sometimes right, with a table of other answers and a draft vocabulary of half the ids."""
    answers = greedy_answers(target_model, [*PROMPTS[:2], [31, 32]], 24)
    slots = count_table([[*prompt, *answer] for prompt, answer in zip(PROMPTS, answers)], (1, 2, 3))
    ids = torch.tensor(sorted({*range(0, 400, 2), *(token for answer in answers for token in answer)}))
    return with_loop(partly_agreeing(target_model, 0.015), make_settings(), slots, ids)


@pytest.mark.parametrize("sources", [[], *([source] for source in SOURCES), list(SOURCES)], ids=str)
def test_greedy_output_with_each_source_and_all(target_model, drafter, monkeypatch, sources) -> None:
    """Prevent a source from deciding a token in place of the target."""
    counts = note_sources(monkeypatch)
    rounds = check_greedy(target_model, with_sources(drafter, sources), tokens=TOKENS)
    assert counts.keys() - {"filler"} == set(sources)
    assert not sources or 0 < alpha(rounds) < 1


def test_greedy_output_with_unusual_settings(target_model: PreTrainedModel) -> None:
    """Prevent wrong output when drafted tokens are cut away and the target then generates the same tokens."""
    unusual = [LoopSettings()]  # never tuned
    for costs in ([30.0, 45.0, 45.1, 45.2, 45.3, 45.4], [10.0, 40.0, 40.0, 9.0, 40.0, 8.0]):
        for trust in (calibration(0.2, 0.2, 0.2), calibration(0.5, 0.5, 0.5)):
            unusual.append(make_settings(costs, calibration=trust, longest_draft=5))
    for settings in unusual:
        check_greedy(target_model, with_loop(partly_agreeing(target_model, 0.01), settings), PROMPTS[1:], TOKENS)


def test_grammar_may_leave_nothing_of_the_draft_vocabulary(target_model: PreTrainedModel) -> None:
    """A grammar allows few tokens, and by chance none that the network can draft."""
    settings, ids = make_settings(sources=["network"]), torch.arange(0, 400, 2)
    drafter = with_loop(partly_agreeing(target_model, 0.01), settings, None, ids)
    allowed = {"prefix_allowed_tokens_fn": lambda _, known: [1 + 2 * int(known[-1] % 99), 201, 203]}
    given = {"eos_token_id": None} | allowed
    answer = generate(target_model, PROMPTS[0], assistant_model=drafter, **given)
    assert answer == generate(target_model, PROMPTS[0], **given)
    assert len(generate(target_model, PROMPTS[0], assistant_model=drafter, **given, do_sample=True)) == TOKENS


def test_greedy_output_beyond_the_drafters_context(target_model: PreTrainedModel) -> None:
    """Prevent an error after the end of the drafter's context, which is shorter than the target's."""
    drafter = partly_agreeing(target_model, 0.01)
    drafter.config.max_position_embeddings = 14
    with_loop(drafter, make_settings())
    check_greedy(target_model, drafter, (*PROMPTS, list(range(30, 60))), TOKENS)
    sampled = generate(target_model, PROMPTS[0], assistant_model=drafter, do_sample=True)
    assert len(sampled) == TOKENS


@pytest.mark.parametrize("kind", [LeanNetwork, StockNetwork])
def test_greedy_output_with_sliding_windows(kind: type) -> None:
    """Prevent wrong keys after a draft is cropped, in layers with a sliding window."""
    target_model = sliding_model(50, SLIDING)
    drafter = partly_agreeing(target_model, 0.03)
    attach_loop(drafter, make_loop(make_settings(sources=["network"]), kind(drafter)))
    prompts = list(range(3, 20)), [5, 6, 7]
    assert 0 < alpha(check_greedy(target_model, drafter, prompts, TOKENS)) < 1
    attach_loop(drafter, make_loop(make_settings(sources=["network"], longest_draft=4), kind(target_model)))
    assert alpha(check_greedy(target_model, drafter, prompts, TOKENS)) == 1


# Sampling: the distribution, of answers that are counted and of a chain whose every step is known.


@pytest.fixture
def toy_drafter(toy_target: PreTrainedModel) -> PreTrainedModel:
    """A drafter whose network and table are sometimes right, and whose sources are all asked."""
    answers = greedy_answers(toy_target, [TOY_PROMPT, [3, 4, 5], [9, 2, 6]], 12)
    slots = count_table([TOY_PROMPT, *answers], (1, 2), min_share=0.0)
    trust = calibration(ngram=0.5) | {"lookup": [0.3, *[0.7] * 7], "network": [0.2] * 8 + [0.6] * 12}
    settings = make_settings(longest_draft=TOY_DRAFT_LENGTH, calibration=trust)
    # Without one id, which the target says all the same
    ids = torch.tensor([token for token in range(TOY_SIZE) if token != 7])
    return with_loop(partly_agreeing(toy_target, 0.1), settings, slots, ids)


def test_sampled_answers_have_the_targets_distribution(toy_target, toy_drafter, monkeypatch) -> None:
    """Short answers that may end at any token: the text's end is drafted, accepted and rejected like any other."""
    counts = note_sources(monkeypatch)
    check_sampled(toy_target, {"assistant_model": toy_drafter})
    assert counts.keys() >= {"lookup", "network"}


CHAIN_TOKENS = 500


def sample_chain(sources: Sequence[str], given: dict[str, Any]) -> list[int]:
    """Sample one long answer of the chain, drafted by a drafter that is sometimes right."""
    likely = CHAIN_LOGITS.argmax(-1).tolist()
    slots = count_table([[token, likely[token], 0] for token in range(CHAIN_SIZE)], (1, 2), min_share=0.0)
    trust = calibration(0.7, 0.7, 0.7)
    if len(sources) > 1:  # the network where it is sure, else lookup where it found four tokens, else the table
        trust = calibration(ngram=0.5) | {"lookup": [0.3] * 3 + [0.65] * 5, "network": [0.2] * 10 + [0.7] * 10}
    # Without one id, which the target says all the same
    ids = torch.tensor([token for token in range(CHAIN_SIZE) if token != 5])
    drafter = with_loop(noisy_chain(0.8), make_settings(sources=list(sources), calibration=trust), slots, ids)
    torch.manual_seed(0)
    given = {"max_new_tokens": CHAIN_TOKENS, "do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} | given
    return [2, *generate(chain(CHAIN_LOGITS), [0, 1, 2], assistant_model=drafter, **given)]


@pytest.mark.parametrize("given", [{}, {"temperature": 1.2, "top_k": 5, "top_p": 0.9}], ids=["plain", "warped"])
@pytest.mark.parametrize("sources", [["lookup"], ["ngram"], ["network"], list(SOURCES)], ids="+".join)
def test_sampled_steps_have_the_targets_distribution(monkeypatch, sources, given) -> None:
    """Prevent a wrong q, which biases the output."""
    kinds = TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper
    warpers = LogitsProcessorList(kind(value) for kind, value in zip(kinds, given.values()))
    counts, tokens = note_sources(monkeypatch), sample_chain(sources, given)
    assert chance_of_these_steps(tokens, warpers(None, CHAIN_LOGITS).softmax(-1)) > IMPROBABLE
    assert counts.keys() - {"filler"} == set(sources)
    assert min(counts[source] for source in sources) >= 20


@pytest.mark.parametrize(
    ("sources", "wrong"),
    [
        pytest.param(["network"], lambda proposal, right: 2 * right, id="drawn at half the temperature"),
        pytest.param(
            ["lookup", "network"],
            lambda proposal, right: torch.zeros(1, CHAIN_SIZE) if proposal.scores is None else right,
            id="copied tokens drawn too",
        ),
    ],
)
def test_wrong_distribution_is_noticed(monkeypatch, sources: list[str], wrong: Callable) -> None:
    """The test of the distribution must fail if the verifier is told a wrong q."""
    scores = generate_module._scores
    monkeypatch.setattr(generate_module, "_scores", lambda first, *rest: wrong(first, scores(first, *rest)))
    tokens = sample_chain(sources, {"max_new_tokens": 1200})
    assert chance_of_these_steps(tokens, CHAIN_LOGITS.softmax(-1)) < IMPROBABLE / 1000


# What is called


def test_users_call_the_models_own_generate(target_model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevent drafts in the output of the drafter's own `generate`."""
    drafter = with_loop(copy.deepcopy(target_model), make_settings())
    counts = note_sources(monkeypatch)
    ids = torch.tensor([PROMPTS[3]])
    given = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 9}
    for more in (
        {"do_sample": False},
        {"do_sample": False, "logits_processor": LogitsProcessorList([RepetitionPenaltyLogitsProcessor(2.0)])},
        {"generation_config": GenerationConfig(do_sample=True, temperature=0.5, pad_token_id=0)},
        {"do_sample": True, "num_return_sequences": 3},
        {"num_beams": 2, "do_sample": False},
    ):
        for name in ("input_ids", "inputs"):
            torch.manual_seed(0)
            expected = target_model.generate(ids, **given, **more)
            torch.manual_seed(0)
            assert torch.equal(drafter.generate(**{name: ids}, **given, **more), expected)
        torch.manual_seed(0)
        assert torch.equal(drafter.generate(ids, **given, **more), expected)  # what most examples show
    output = drafter.generate(input_ids=ids, **given, return_dict_in_generate=True, output_scores=True)
    assert len(output.scores) == 9
    assert output[CACHE] is not None
    assert counts == {}


def test_first_call_drafts_as_long_as_the_second(target_model, monkeypatch) -> None:
    """Prevent the stock loop's draft length in the call in which remote code builds the loop."""
    drafter = copy.deepcopy(target_model)
    set_draft_length(drafter, 1)
    loop = make_loop(make_settings(sources=["network"]), LeanNetwork(drafter), size=drafter.config.vocab_size)
    monkeypatch.setattr(generate_module, "build_loop", lambda *_, **__: loop)
    drafter.generate = functools.partial(generate_module.generate, model=drafter)
    given = {"assistant_model": drafter, "eos_token_id": None}
    for _ in range(2):
        decoding = decode(target_model, PROMPTS[0], given, 0.0, 0, TOKENS)
        assert decoding.rounds[:3] == 3 * [Round(4, 4, rejected=False)]
        assert len(decoding.output_ids) == TOKENS


def test_drafter_that_was_moved_is_refused(target_model: PreTrainedModel) -> None:
    """Prevent drafts from weights and caches on the old device."""
    drafter = with_loop(target_model, make_settings())
    drafter.to("meta")
    with pytest.raises(ValueError, match="the drafter drafted on cpu and is on meta now: load it again there"):
        loop_of(drafter)


def test_both_models_may_be_weighed(target_model: PreTrainedModel, drafter: PreTrainedModel) -> None:
    """The one greedy mode that reads the scores."""
    given = {"assistant_model": drafter, "assistant_ensemble_weight": 0.5}
    for sampling in (False, True):
        assert len(generate(target_model, PROMPTS[3], **given, do_sample=sampling)) == TOKENS
