"""A head's logits, never all at once: of a small drafter they are by far the largest tensor."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from drafter_trainer.errors import InputError

_LOGITS_AT_ONCE = 2**25  # 128 MiB in fp32


@contextmanager
def replaced_head(model: torch.nn.Module, function: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Let a model's forward return what a function makes of the last hidden states, in place of logits.

    The forward around it stays the model's own, so DDP and FSDP see all that they need to see.

    Args:
        model (`torch.nn.Module`): A causal language model, unwrapped.
        function (callable): From hidden states of shape `(batch, length, width)` to any tensor.
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
    """Make sure that nothing happens to logits behind the head, where `replaced_head` would miss it.

    Raises:
        InputError: If the family caps or scales them there.
    """
    with replaced_head(model, lambda hidden: hidden.new_full((1, 1, 1), 0.75)):
        said = model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=model.device)).logits
    if said.item() != 0.75:
        raise InputError(
            f"{model.config.model_type} caps or scales its logits behind the head, which training does not support: "
            "turn that off in the drafter's configuration"
        )


def sum_losses(
    hidden: torch.Tensor, head: torch.nn.Linear, token_losses: Callable[[torch.Tensor, slice], torch.Tensor]
) -> torch.Tensor:
    """Sum the losses of tokens.

    Logits are made for some tokens at a time. While training their gradient is made and used up at once, in the
    forward pass: a backward pass later would need the logits kept, or made anew.

    Args:
        hidden (`torch.Tensor` of shape `(tokens, width)`): What the head reads.
        head (`torch.nn.Linear`): The head.
        token_losses (callable): From logits of shape `(pieces' tokens, vocabulary)` and their place among the tokens
            to their losses, of shape `(pieces' tokens,)`.
    Returns:
        `torch.Tensor` of shape `()`, in fp32.
    """
    if torch.is_grad_enabled():
        return _SumOfLosses.apply(hidden, head.weight, head.bias, token_losses)
    total = hidden.new_zeros((), dtype=torch.float32)
    for place, logits in logits_in_pieces(hidden, head):
        total += token_losses(logits, place).sum()
    return total


def logits_in_pieces(hidden: torch.Tensor, head: torch.nn.Linear) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield the logits of some tokens at a time, behind their place among all."""
    for place in pieces(len(hidden), len(head.weight)):
        yield place, F.linear(hidden[place], head.weight, head.bias)


def pieces(tokens: int, vocabulary: int) -> Iterator[slice]:
    """Cut tokens into pieces whose logits fit in memory."""
    size = max(1, _LOGITS_AT_ONCE // vocabulary)
    return (slice(start, start + size) for start in range(0, tokens, size))


class _SumOfLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, token_losses):
        total = hidden.new_zeros((), dtype=torch.float32)
        hidden_gradient = torch.empty_like(hidden)
        # Summed up over the pieces in fp32, whatever the dtype: so is the sum within one matrix product.
        _, learns, learns_bias, _ = ctx.needs_input_grad  # a head may be frozen
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if learns else None
        bias_gradient = torch.zeros_like(bias, dtype=torch.float32) if learns_bias else None
        for place in pieces(len(hidden), len(weight)):
            piece = hidden[place]
            logits = F.linear(piece, weight, bias).requires_grad_()
            with torch.enable_grad():
                loss = token_losses(logits, place).sum()
            (gradient,) = torch.autograd.grad(loss, logits)
            total += loss.detach()
            hidden_gradient[place] = gradient @ weight
            if learns and gradient.dtype == piece.dtype == torch.float32:
                weight_gradient.addmm_(gradient.T, piece)
            elif learns:
                weight_gradient += gradient.T @ piece
            if learns_bias:
                bias_gradient += gradient.sum(dim=0)
            del logits, loss, gradient  # else they are held while the next piece's are made
        # Not saved for backward, which would hold them to its end: let go of, autograd adds to them in place what tied
        # embeddings get from their other side.
        ctx.gradients = [hidden_gradient, weight_gradient, bias_gradient]
        ctx.dtypes = hidden.dtype, weight.dtype, weight.dtype
        return total

    @staticmethod
    def backward(ctx, outer):
        gradients, ctx.gradients = ctx.gradients, None
        # In place: for a vocabulary of 262,144 one more copy is a gigabyte. Nobody else holds these.
        scaled = (each if each is None else each.mul_(outer).to(dtype) for each, dtype in zip(gradients, ctx.dtypes))
        return *scaled, None
