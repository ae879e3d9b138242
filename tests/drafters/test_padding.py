"""Padded vocabularies: other sizes, the same tokenizer."""

from pathlib import Path

import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from drafter_trainer.decoding.metrics import alpha
from drafter_trainer.decoding.rounds import decode
from drafter_trainer.drafters.load import load_drafter, with_stock_loop
from drafter_trainer.drafters.loop.drafting import DraftingLoop
from drafter_trainer.drafters.loop.generate import attach_loop, loop_of
from drafter_trainer.drafters.loop.network import LeanNetwork
from drafter_trainer.drafters.loop.networkless import NetworklessDrafter
from drafter_trainer.drafters.padding import fit_vocabulary
from drafter_trainer.errors import InputError
from tests.conftest import make_model
from tests.decoding.drafts import partly_agreeing
from tests.decoding.test_losslessness import (
    IMPROBABLE,
    SAMPLES,
    TOY_SIZE,
    chance_of_these_answers,
    exact_chances,
    sample,
    toy_target,
)
from tests.drafters.loop.conftest import CPU, FLAT, PROMPTS, make_settings
from tests.drafters.test_load import write_drafter

__all__ = ["toy_target"]  # a fixture, for pytest to find


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
    rounds = []
    for prompt in PROMPTS:
        plain = decode(target_model, prompt, {}, 0.0, 0, 16)
        for drafts in (drafter, with_stock_loop(drafter, 3)):
            drafted = decode(target_model, prompt, {"assistant_model": drafts}, 0.0, 0, 16)
            assert drafted.output_ids == plain.output_ids
            rounds += drafted.rounds
    assert 0.2 < alpha(rounds) < 1


def test_drafter_is_resized_once(tmp_path: Path, tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Done again in every call, it would copy hundreds of megabytes for each answer."""
    calls = []
    resize = PreTrainedModel.resize_token_embeddings
    monkeypatch.setattr(
        PreTrainedModel, "resize_token_embeddings", lambda *given, **named: calls.append(1) or resize(*given, **named)
    )
    target_model = padded(make_model(tokenizer), 416)
    calls.clear()
    drafter = load_drafter(str(write_drafter(tmp_path, make_model(tokenizer), tokenizer)), target_model, tokenizer)
    for prompt in PROMPTS[:2]:
        decode(target_model, prompt, {"assistant_model": drafter}, 0.0, 0, 6)
    assert len(calls) == 1


def test_sampled_answers_have_the_targets_distribution(toy_target: PreTrainedModel) -> None:
    """A q that counts on ids that the drafter cannot draw answers in another voice."""
    known = TOY_SIZE - 3  # the last three are in the prompt, and among the target's answers
    drafter = padded(partly_agreeing(toy_target, 0.1), known)
    fit_vocabulary(drafter, TOY_SIZE)
    settings = make_settings(sources=["network"], longest_draft=2)
    attach_loop(
        drafter, DraftingLoop(LeanNetwork(drafter, torch.arange(known)), None, settings, CPU, TOY_SIZE, lambda: 0.0)
    )
    answers, rounds = sample(toy_target, {"assistant_model": drafter}, 1.0, SAMPLES // 2)
    assert chance_of_these_answers(answers, exact_chances(toy_target, 1.0)) > IMPROBABLE
    assert 0.1 < alpha(rounds) < 0.95


def qwen_sized(size: int) -> PreTrainedModel:
    """Qwen 2.5's sizes at a width of 8, embeddings and head apart."""
    torch.manual_seed(0)
    config = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=size, tie_word_embeddings=False, initializer_range=0.5, **config))


def gemma_sized(size: int) -> PreTrainedModel:
    """Gemma 3's sizes at a width of 8, one matrix for both."""
    torch.manual_seed(0)
    config = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config |= {"num_key_value_heads": 1, "head_dim": 8, "layer_types": ["full_attention"]}
    return Gemma3ForCausalLM(Gemma3TextConfig(vocab_size=size, initializer_range=0.5, **config))


@pytest.mark.parametrize(
    ("make", "trained", "size"),
    [(qwen_sized, 151_936, 152_064), (qwen_sized, 152_064, 151_936), (gemma_sized, 262_144, 262_208)],
)
def test_real_sizes(make, trained: int, size: int) -> None:
    """Rows that are added by chance, as transformers does it, win now and then; those kept must stay as they are."""
    drafter, target_model = make(trained).eval(), make(size).eval()
    before = drafter.get_output_embeddings().weight.detach().clone()
    tied = drafter.get_output_embeddings().weight is drafter.get_input_embeddings().weight
    fit_vocabulary(drafter, size)
    head, kept = drafter.get_output_embeddings().weight.detach(), min(trained, size)
    assert drafter.config.vocab_size == len(head) == len(drafter.get_input_embeddings().weight) == size
    assert (drafter.get_output_embeddings().weight is drafter.get_input_embeddings().weight) == tied
    assert torch.equal(head[:kept], before[:kept])
    logits = torch.randn(64, 8, generator=torch.Generator().manual_seed(3)) @ head.T
    assert (logits.argmax(dim=-1) < kept).all()
    settings = make_settings(FLAT, sources=["network"], longest_draft=3)
    draft_ids = torch.arange(trained) if trained < size else None
    attach_loop(drafter, DraftingLoop(LeanNetwork(drafter, draft_ids), None, settings, CPU, size, lambda: 0.0))
    prompt = [5, kept - 1, size - 1, 7]  # the last of the target's ids is one that was added
    plain = decode(target_model, prompt, {}, 0.0, 0, 6)
    assert decode(target_model, prompt, {"assistant_model": drafter}, 0.0, 0, 6).output_ids == plain.output_ids


def test_rows_drawn_by_chance_would_be_noticed() -> None:
    """A test of the head that transformers' own resizing passes too would prove nothing."""
    drafter = padded(qwen_sized(1000), 1200)
    logits = torch.randn(64, 8, generator=torch.Generator().manual_seed(3)) @ drafter.lm_head.weight.detach().T
    assert (logits.argmax(dim=-1) >= 1000).any()


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
