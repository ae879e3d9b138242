"""Padded vocabularies: other sizes, the same tokenizer."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from drafter_trainer.decoding.metrics import alpha
from drafter_trainer.drafters.compatibility import fit_vocabulary
from drafter_trainer.drafters.load import load_drafter, with_stock_loop
from drafter_trainer.drafters.loop.generate import loop_of
from drafter_trainer.drafters.loop.networkless import NetworklessDrafter
from drafter_trainer.errors import InputError
from tests.conftest import make_model
from tests.decoding.drafts import partly_agreeing
from tests.decoding.lossless import TOY_SIZE, check_greedy, check_sampled
from tests.drafters.loop.conftest import make_settings, with_loop
from tests.drafters.test_load import write_drafter


def padded(model: PreTrainedModel, size: int) -> PreTrainedModel:
    """Give a model another number of rows, as the models of a family have them."""
    torch.manual_seed(1)
    model.resize_token_embeddings(size, mean_resizing=False)
    return model


@pytest.mark.parametrize(
    ("trained", "size"), [(400, 448), (448, 400), (448, 416), (416, 448)], ids=lambda size: str(size)
)
def test_greedy_output_with_another_padding(tmp_path: Path, tokenizer, trained: int, size: int) -> None:
    """transformers takes another size for another tokenizer; and a drafter of padding ids drafts for nothing."""
    target_model = padded(make_model(tokenizer), size)
    drafter = padded(partly_agreeing(make_model(tokenizer), 0.01), trained)
    drafter = load_drafter(str(write_drafter(tmp_path, drafter, tokenizer)), target_model, tokenizer)
    loop, draft_ids = loop_of(drafter), loop_of(drafter).network.draft_ids
    assert (drafter.config.vocab_size, loop.vocabulary, len(drafter.lm_head.weight)) == (size, size, size)
    assert (draft_ids is None) == (trained > size)
    rounds = [*check_greedy(target_model, drafter), *check_greedy(target_model, with_stock_loop(drafter, 3))]
    assert 0.2 < alpha(rounds) < 1


def test_sampled_answers_have_the_targets_distribution(toy_target: PreTrainedModel) -> None:
    """A q that counts on ids that the drafter cannot draw answers in another voice."""
    known = TOY_SIZE - 3  # the last three are in the prompt, and among the target's answers
    drafter = padded(partly_agreeing(toy_target, 0.1), known)
    fit_vocabulary(drafter, TOY_SIZE)
    settings = make_settings(sources=["network"], longest_draft=2)
    with_loop(drafter, settings, draft_ids=torch.arange(known))
    check_sampled(toy_target, {"assistant_model": drafter}, high=0.95)


def test_drafter_without_a_network_takes_the_size() -> None:
    """It has no rows; what transformers compares is the number alone."""
    drafter = NetworklessDrafter.for_vocabulary(262_144)
    fit_vocabulary(drafter, 262_208)
    assert drafter.config.vocab_size == 262_208


def test_vocabulary_that_lacks_tokens_is_refused(tmp_path: Path, target_model: PreTrainedModel, tokenizer) -> None:
    """What is missing is no padding then: the drafter was cut down, and its ids may be of anything."""
    folder = write_drafter(tmp_path, padded(make_model(tokenizer, layers=1), 390), tokenizer)
    with pytest.raises(InputError, match="vocabulary of 390, the target one of 400, their tokenizer one of 400"):
        load_drafter(str(folder), target_model, tokenizer)
