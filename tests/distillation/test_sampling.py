"""The next tokens of a batch, against full-width operations."""

import numpy as np
import pytest
import torch

from drafter_trainer.distillation.sampling import TokenChooser


@pytest.mark.parametrize("vocabulary", [20, 64, 1000, 1024])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chosen_tokens_are_those_of_full_width_operations(vocabulary: int, dtype: torch.dtype) -> None:
    """Prevent a logit from being missed at a block's edge, a row from getting another's buffer, and the filling of the
    last block from being drawn."""
    torch.manual_seed(0)
    logits = (4 * torch.randn(19, vocabulary)).to(dtype)
    temperatures = [0.0, 1.0, 0.3, 0.7] * 4 + [1.0, 0.0, 1.0]
    noise = torch.rand(19, dtype=torch.float64).tolist()
    noise[1], noise[16] = 0.0, 1 - 2**-24
    tokens, ids, logprobs = TokenChooser(20)(logits, temperatures, noise)
    wide = logits.double()
    expected = wide.log_softmax(dim=-1)
    assert torch.allclose(logprobs.double(), expected.topk(20, dim=-1).values, atol=1e-5)
    assert torch.allclose(logprobs.double(), expected.gather(1, ids), atol=1e-5)
    for row, (temperature, place) in enumerate(zip(temperatures, noise)):
        if not temperature:
            assert wide[row, tokens[row]] == wide[row].max()
            continue
        cumulative = (wide[row] / temperature).softmax(dim=-1).cumsum(dim=-1)
        token = int(tokens[row])
        before = float(cumulative[token - 1]) if token else 0.0
        assert before - 1e-6 <= place <= float(cumulative[token]) + 1e-6


def test_ids_without_probability_are_never_drawn() -> None:
    """Prevent an id that the target rules out from being drawn at the ends of the distribution."""
    logits = torch.full((2, 200), float("-inf"))
    logits[:, [70, 150]] = 0.0
    tokens, _, _ = TokenChooser(2)(logits, [1.0, 1.0], [0.0, 1 - 2**-24])
    assert tokens.tolist() == [70, 150]


def test_draws_follow_the_distribution() -> None:
    """Prevent self-distilled rows from being sampled from another distribution than the target's."""
    torch.manual_seed(1)
    logits, temperature, draws = 2 * torch.randn(1, 150), 0.7, 4000
    noise = np.random.default_rng(2).random(draws).tolist()
    tokens, _, _ = TokenChooser(5)(logits.expand(draws, -1), [temperature] * draws, noise)
    expected = draws * (logits[0] / temperature).softmax(dim=-1).double()
    counts = torch.bincount(tokens, minlength=150).double()
    often = expected > 5
    statistic = float(((counts - expected)[often] ** 2 / expected[often]).sum())
    degrees = int(often.sum())
    assert statistic < degrees + 5 * (2 * degrees) ** 0.5
