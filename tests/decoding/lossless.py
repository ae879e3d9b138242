"""Checks of losslessness: greedy output token for token, sampled output in the target's exact distribution."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from drafter_trainer.decoding.metrics import Round, alpha
from drafter_trainer.decoding.rounds import decode

PROMPTS = [[9, 33, 120, 7], [50, 60, 70, 80, 90, 100, 110], [300, 7, 7, 9, 300], [5, 6, 5, 6, 5, 6, 5, 6]]
TOY_SIZE = 12
TOY_PROMPT = [10, 2, 2, 7, 8, 11, 9, 7, 11, 5, 3, 8, 8, 2]  # the token after its first 2 is likely after its last 2
TOY_TOKENS = 3
TOY_DRAFT_LENGTH = 2
SAMPLES = 300
WRONG_SAMPLES = 200
# A lossless method is below it for one of 10,000 choices of seeds; wrong methods are far below it.
IMPROBABLE = 1e-4


def check_greedy(
    target_model: PreTrainedModel,
    drafter: PreTrainedModel,
    prompts: Iterable[Sequence[int]] = PROMPTS,
    tokens: int = 16,
) -> list[Round]:
    """Compare greedy output with plain decoding's; return the rounds."""
    rounds: list[Round] = []
    for prompt in prompts:
        drafted = decode(target_model, prompt, {"assistant_model": drafter}, 0.0, 0, tokens)
        assert drafted.output_ids == decode(target_model, prompt, {}, 0.0, 0, tokens).output_ids
        rounds += drafted.rounds
    return rounds


def make_toy_target() -> PreTrainedModel:
    """Make a target for which the probabilities of all outputs of three tokens can be computed; token 1 is the end."""
    torch.manual_seed(9)
    sizes = {"vocab_size": TOY_SIZE, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "max_position_embeddings": 512}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    return LlamaForCausalLM(LlamaConfig(**sizes, **ids, initializer_range=0.45)).eval()


def exact_chances(toy_target: PreTrainedModel, temperature: float) -> dict[tuple[int, ...], float]:
    """Compute the probability of every output from the target's logits."""
    starts = list(itertools.product(range(TOY_SIZE), repeat=TOY_TOKENS - 1))
    with torch.inference_mode():
        texts = torch.tensor([TOY_PROMPT + list(start) for start in starts])
        logits = toy_target(input_ids=texts, use_cache=False).logits[:, len(TOY_PROMPT) - 1 :].double()
    result: Counter[tuple[int, ...]] = Counter()
    for row, start in zip((logits / temperature).softmax(-1), starts):
        known = row[range(len(start)), start].prod()
        for last, chance in enumerate((known * row[-1]).tolist()):
            answer = (*start, last)
            result[answer[: answer.index(1) + 1] if 1 in answer else answer] += chance
    assert sum(result.values()) == pytest.approx(1)
    return dict(result)


def chance_of_these_counts(counts: torch.Tensor, chances: torch.Tensor, least_degrees: int = 3) -> float:
    """Compute the p-value of Pearson's chi-square test of counts.

    Outcomes of a row that are expected fewer than five times are merged, as the test demands.

    Args:
        counts (`torch.Tensor` of shape `(rows, outcomes)` or `(outcomes,)`): Observed number of each outcome.
        chances (`torch.Tensor` of the same shape): The exact probabilities; each row sums to 1.
        least_degrees (`int`, *optional*, defaults to 3): Degrees of freedom that the test needs.
    """
    statistic, degrees = 0.0, 0
    assert counts[chances == 0].sum() == 0
    for seen, row in zip(counts.double().reshape(-1, counts.shape[-1]), chances.reshape(-1, counts.shape[-1])):
        expected = seen.sum() * row.double()
        often = expected >= 5
        cells = [*zip(seen[often].tolist(), expected[often].tolist())]
        if expected[~often].sum() > 0:
            cells.append((seen[~often].sum().item(), expected[~often].sum().item()))
        statistic += sum((count - mean) ** 2 / mean for count, mean in cells)
        degrees += max(len(cells) - 1, 0)
    assert degrees >= least_degrees
    return torch.special.gammaincc(*torch.tensor([degrees / 2, statistic / 2], dtype=torch.float64)).item()


def chance_of_these_answers(answers: list[tuple[int, ...]], chances: dict[tuple[int, ...], float]) -> float:
    """Compute the p-value of sampled outputs with exact probabilities."""
    counts = Counter(answers)
    assert counts.keys() <= chances.keys()
    seen = torch.tensor([counts[answer] for answer in chances])
    return chance_of_these_counts(seen, torch.tensor([*chances.values()], dtype=torch.float64), 6)


def sample(
    toy_target: PreTrainedModel, arguments: dict[str, Any], temperature: float, samples: int
) -> tuple[list[tuple[int, ...]], list[Round]]:
    """Sample outputs of the toy target, each with its own seed."""
    decodings = [decode(toy_target, TOY_PROMPT, arguments, temperature, seed, TOY_TOKENS) for seed in range(samples)]
    rounds = [round_ for decoding in decodings for round_ in decoding.rounds]
    return [tuple(decoding.output_ids) for decoding in decodings], rounds


def check_sampled(
    toy_target: PreTrainedModel,
    arguments: dict[str, Any],
    low: float = 0.1,
    high: float = 0.9,
    chances: dict[tuple[int, ...], float] | None = None,
) -> None:
    """Compare sampled outputs with their exact probabilities; some drafts must be accepted and some rejected."""
    answers, rounds = sample(toy_target, arguments, 1.0, SAMPLES)
    assert chance_of_these_answers(answers, chances or exact_chances(toy_target, 1.0)) > IMPROBABLE
    assert low < alpha(rounds) < high
