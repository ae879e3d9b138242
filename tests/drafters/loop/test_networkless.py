"""Drafters without a network: published, loaded, and lossless."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from drafter_trainer import publish
from drafter_trainer.decoding.metrics import alpha
from drafter_trainer.decoding.rounds import decode
from drafter_trainer.drafters.load import load_drafter, with_sources
from drafter_trainer.drafters.loop.build import TABLE, VOCABULARY
from drafter_trainer.drafters.loop.generate import attach_loop, loop_of
from drafter_trainer.drafters.loop.networkless import NetworklessDrafter
from drafter_trainer.drafters.loop.settings import HIGHEST_ORDER
from drafter_trainer.drafters.ngram import LEAST_BYTES, count_table
from drafter_trainer.errors import InputError
from drafter_trainer.targets import Target
from tests.decoding.drafts import set_draft_length
from tests.decoding.lossless import TOY_PROMPT, TOY_SIZE, check_greedy, check_sampled
from tests.drafters.loop.conftest import CHEAP, PROMPTS, greedy_answers, make_loop, make_settings
from tests.hub.conftest import make_drafter


def test_repository_holds_no_network(without_network, published) -> None:
    """Prevent unused weights in the repository, and a missing table."""
    assert (without_network / "model.safetensors").stat().st_size < 200
    assert not (without_network / VOCABULARY).exists()
    assert (without_network / TABLE).read_bytes() == (published / TABLE).read_bytes()
    names = {str(path.relative_to(without_network)) for path in without_network.rglob("*") if path.is_file()}
    assert names == {str(path.relative_to(published)) for path in published.rglob("*") if path.is_file()} - {
        VOCABULARY
    }


def test_loaded_drafter_drafts_with_its_table_alone(without_network, target_model, tokenizer) -> None:
    """Prevent a call of the missing network, and a table that is not found."""
    drafter = load_drafter(str(without_network), target_model, tokenizer)
    loop = loop_of(drafter)
    # With this package, transformers needs no code from the repository.
    assert type(drafter) is type(AutoModelForCausalLM.from_pretrained(without_network)) is NetworklessDrafter
    assert (loop.network, loop.settings.sources, loop.table.orders) == (None, CHEAP, [3, 2, 1])
    assert 0 < alpha(check_greedy(target_model, drafter)) < 1
    looking_up = with_sources(drafter, ["lookup"])
    assert (loop_of(looking_up).table, loop_of(looking_up).network) == (None, None)
    decode(target_model, PROMPTS[0], {"assistant_model": looking_up}, 0.0, 0, 4)


def test_sampled_answers_have_the_targets_distribution(toy_target: PreTrainedModel) -> None:
    """Prevent copied tokens from counting as sampled ones, which would bias the output."""
    answers = greedy_answers(toy_target, [TOY_PROMPT, [3, 4, 5], [9, 2, 6]], 12)
    drafter = NetworklessDrafter.for_vocabulary(TOY_SIZE)
    table = count_table(answers, range(1, HIGHEST_ORDER + 1), max_bytes=LEAST_BYTES)
    attach_loop(drafter, make_loop(make_settings(sources=CHEAP), None, table, TOY_SIZE))
    check_sampled(toy_target, {"assistant_model": drafter}, low=0, high=1)


def test_nothing_is_answered_without_a_network(target_model, tokenizer) -> None:
    """Prevent an obscure error of transformers for a drafter without a loop."""
    drafter = set_draft_length(NetworklessDrafter.for_vocabulary(len(tokenizer)), 3)
    message = "has no network and cannot generate text: load it with load_drafter"
    with pytest.raises(ValueError, match=message):
        drafter.generate(torch.tensor([PROMPTS[0]]))
    with pytest.raises(ValueError, match=message):
        decode(target_model, PROMPTS[0], {"assistant_model": drafter}, 0.0, 0, 4)


def test_drafter_without_a_table_is_refused(
    target: Target, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Without network and table it would be prompt lookup under another name, and a mistyped source asks nobody."""
    trained = make_drafter(tmp_path / "trained", tokenizer, target)
    with pytest.raises(InputError, match=r"has no n-gram table: tune it first, or publish it with the network"):
        publish(trained, target, tmp_path / "drafter", sources=CHEAP)
    assert not (tmp_path / "drafter").exists()
    with pytest.raises(InputError, match="sources may name lookup, ngram, network, got suffix"):
        publish(trained, sources=["suffix"])
    with pytest.raises(InputError, match="an adapter needs the network"):
        publish(trained, sources=CHEAP, adapter_of="alice/base")
