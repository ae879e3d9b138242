"""The logits of a head, computed in pieces: they are by far the largest tensor of a small drafter."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from drafter_trainer.errors import InputError

_LOGITS_AT_ONCE = 2**25  # 128 MiB in fp32


@contextmanager
def replaced_head(model: torch.nn.Module, function: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Replace a model's head by a function of the last hidden states, of shape `(batch, length, width)`.

    The rest of the forward pass remains the model's own, as DDP and FSDP require.
    """
    head = model.get_output_embeddings()
    before = head.__dict__.get("forward")
    head.forward = function
    try:
        yield
    finally:
        del head.forward
        if before is not None:
            head.forward = before


@torch.no_grad()
def check_head(model: torch.nn.Module) -> None:
    """Raise an error if a model caps or scales its logits after the head, which `replaced_head` would skip."""
    with replaced_head(model, lambda hidden: hidden.new_full((1, 1, 1), 0.75)):
        passed = model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=model.device)).logits
    if passed.item() != 0.75:
        raise InputError(
            f"{model.config.model_type} caps or scales its logits after the head, which training does not support: "
            "turn that off in the drafter's configuration"
        )


def sum_losses(
    hidden: torch.Tensor, head: torch.nn.Linear, token_losses: Callable[[torch.Tensor, slice], torch.Tensor]
) -> torch.Tensor:
    """Sum the losses of tokens.

    Logits are computed for a piece of the tokens at a time. In training their gradient is computed in the forward
    pass too, so that the backward pass needs no logits.

    Args:
        hidden (`torch.Tensor` of shape `(tokens, width)`): Input of the head.
        head (`torch.nn.Linear`): The head.
        token_losses (callable): Function from the logits of a piece, of shape `(piece, vocabulary)`, and its slice of
            the tokens to losses of shape `(piece,)`.
    Returns:
        `torch.Tensor` of shape `()`, in fp32.
    """
    if torch.is_grad_enabled():
        return _SumOfLosses.apply(hidden, head.weight, head.bias, token_losses)
    total = hidden.new_zeros((), dtype=torch.float32)
    for piece, logits in logits_in_pieces(hidden, head):
        total += token_losses(logits, piece).sum()
    return total


def logits_in_pieces(hidden: torch.Tensor, head: torch.nn.Linear) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield slices of the tokens, and their logits."""
    for piece in _pieces(len(hidden), len(head.weight)):
        yield piece, F.linear(hidden[piece], head.weight, head.bias)


def _pieces(tokens: int, vocabulary: int) -> Iterator[slice]:
    size = max(1, _LOGITS_AT_ONCE // vocabulary)
    return (slice(start, start + size) for start in range(0, tokens, size))


class _SumOfLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, token_losses):
        total = hidden.new_zeros((), dtype=torch.float32)
        hidden_gradient = torch.empty_like(hidden)
        # The pieces are summed in fp32 for every dtype, like the sum within one matrix product.
        _, learns, learns_bias, _ = ctx.needs_input_grad  # a head may be frozen
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if learns else None
        bias_gradient = torch.zeros_like(bias, dtype=torch.float32) if learns_bias else None
        for piece in _pieces(len(hidden), len(weight)):
            states = hidden[piece]
            logits = F.linear(states, weight, bias).requires_grad_()
            with torch.enable_grad():
                loss = token_losses(logits, piece).sum()
            (gradient,) = torch.autograd.grad(loss, logits)
            total += loss.detach()
            hidden_gradient[piece] = gradient @ weight
            if learns and gradient.dtype == states.dtype == torch.float32:
                weight_gradient.addmm_(gradient.T, states)
            elif learns:
                weight_gradient += gradient.T @ states
            if learns_bias:
                bias_gradient += gradient.sum(dim=0)
            del logits, loss, gradient  # otherwise they stay in memory while the next piece is computed
        # Not with save_for_backward, which would keep the gradients until the backward pass ends. Once they are
        # released, autograd adds the gradient of tied input embeddings to them in place.
        ctx.gradients = [hidden_gradient, weight_gradient, bias_gradient]
        ctx.dtypes = hidden.dtype, weight.dtype, weight.dtype
        return total

    @staticmethod
    def backward(ctx, outer):
        gradients, ctx.gradients = ctx.gradients, None
        # In place: for a vocabulary of 262,144 another copy takes a gigabyte. No other reference to these tensors
        # exists.
        scaled = (each if each is None else each.mul_(outer).to(dtype) for each, dtype in zip(gradients, ctx.dtypes))
        return *scaled, None
