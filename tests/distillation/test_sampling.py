"""The next tokens of a batch, against full-width operations."""

import pytest
import torch

from drafter_trainer.distillation.sampling import choose_tokens


@pytest.mark.parametrize("vocabulary", [20, 64, 1000, 1024])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chosen_tokens_are_those_of_full_width_operations(vocabulary: int, dtype: torch.dtype) -> None:
    """Prevent a logit missed at a block's edge, another row's buffer, and the filling of the last block."""
    torch.manual_seed(0)
    logits = (4 * torch.randn(19, vocabulary)).to(dtype)
    temperatures = [0.0, 1.0, 0.3, 0.7] * 4 + [1.0, 0.0, 1.0]
    noise = torch.rand(19, dtype=torch.float64).tolist()
    noise[1], noise[16] = 0.0, 1 - 2**-24
    tokens, ids, logprobs = choose_tokens(logits, temperatures, noise, 20)
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
    tokens, _, _ = choose_tokens(logits, [1.0, 1.0], [0.0, 1 - 2**-24], 2)
    assert tokens.tolist() == [70, 150]
