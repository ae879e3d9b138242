"""Drafters with a known agreement with their target."""

import copy
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from drafter_trainer.decoding.metrics import alpha
from drafter_trainer.decoding.rounds import decode
from drafter_trainer.drafters.loop import generate
from tests.conftest import tiny_model
from tests.decoding.lossless import IMPROBABLE, chance_of_these_counts

SIZE = 16
COUNTING = [(token + 1) % SIZE for token in range(SIZE)]


def set_draft_length(drafter: PreTrainedModel, draft_length: int) -> PreTrainedModel:
    """Set the draft length as publishing does: a fixed number of tokens in each round, without an early stop."""
    generate.set_draft_length(drafter.generation_config, draft_length)
    return drafter


def successor_model(successors: Sequence[int], eos_token_id: int | None = None) -> PreTrainedModel:
    """Make a model with hand-written logits: token `t` is followed by `successors[t]`."""
    size = len(successors)
    sizes = {"vocab_size": size, "hidden_size": size, "intermediate_size": 4, "max_position_embeddings": 512}
    sizes |= {"num_hidden_layers": 1, "num_attention_heads": 1, "tie_word_embeddings": False}
    model = LlamaForCausalLM(LlamaConfig(**sizes, bos_token_id=None, eos_token_id=eos_token_id, pad_token_id=None))
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(torch.eye(size))
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.get_output_embeddings().weight.copy_(10 * torch.eye(size)[:, list(successors)])
    return model.eval()


def agreeing(target_model: PreTrainedModel) -> PreTrainedModel:
    """Make a drafter that is always right: a copy."""
    return copy.deepcopy(target_model)


def disagreeing(target_model: PreTrainedModel) -> PreTrainedModel:
    """Make a drafter that is never right: the target's least likely token is its most likely one."""
    drafter = copy.deepcopy(target_model)
    drafter.lm_head.weight = torch.nn.Parameter(-target_model.lm_head.weight.detach().clone())
    return drafter


def add_noise(weights: Iterable[torch.Tensor], noise: float, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in weights:
            weight.add_(noise * torch.randn(weight.shape, generator=generator))


def partly_agreeing(target_model: PreTrainedModel, noise: float, seed: int = 0) -> PreTrainedModel:
    """Make a drafter that is sometimes right: a copy with noise on its layers."""
    drafter = copy.deepcopy(target_model)
    add_noise(drafter.model.layers.parameters(), noise, seed)
    return drafter


def sliding_model(vocabulary: int, layers: Sequence[str]) -> PreTrainedModel:
    """Make a tiny Gemma 3; layers of the type "sliding_attention" attend to six tokens."""
    given = {"num_hidden_layers": len(layers), "layer_types": list(layers), "sliding_window": 6}
    given |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")) | {"tie_word_embeddings": False}
    return tiny_model("gemma3_text", vocab_size=vocabulary, max_position_embeddings=256, **given)


CHAIN_SIZE = 8
# What follows each token of a chain, from nearly certain to nearly even
CHAIN_LOGITS = 1.3 * torch.randn((CHAIN_SIZE, CHAIN_SIZE), generator=torch.Generator().manual_seed(3))


def chain(logits: torch.Tensor) -> PreTrainedModel:
    """Make a model whose logits depend on the last token alone: `logits[token]`."""
    model = successor_model(range(CHAIN_SIZE))
    model.config.max_position_embeddings = 1300
    with torch.no_grad():
        # The norm multiplies what it sees, one out of eight, by √8.
        model.get_output_embeddings().weight.copy_(logits.T / CHAIN_SIZE**0.5)
    return model


def noisy_chain(noise: float) -> PreTrainedModel:
    """Make a drafter of the chain that is sometimes right."""
    return chain(CHAIN_LOGITS + noise * torch.randn(CHAIN_LOGITS.shape, generator=torch.Generator().manual_seed(5)))


def chance_of_these_steps(tokens: list[int], chances: torch.Tensor) -> float:
    """Compute how probable steps of a chain are that fit its exact chances no better."""
    counts = torch.zeros(CHAIN_SIZE, CHAIN_SIZE)
    for step in itertools.pairwise(tokens):
        counts[step] += 1
    return chance_of_these_counts(counts, chances, 16)


def check_chain(arguments: dict[str, Any], temperature: float, tokens: int) -> None:
    """Compare sampled steps with their exact probabilities; some drafts must be accepted and some rejected."""
    decoding = decode(chain(CHAIN_LOGITS), [0, 1, 2], arguments, temperature, 0, tokens)
    assert chance_of_these_steps([2, *decoding.output_ids], (CHAIN_LOGITS / temperature).softmax(-1)) > IMPROBABLE
    assert 0.1 < alpha(decoding.rounds) < 0.95
