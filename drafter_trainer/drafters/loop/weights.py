"""Matrices and norms of the lean network."""

import torch
import torch.nn.functional as F

_INT8_MULTIPLE = 32  # of weights in a row; torch's kernel reads beyond the end of other rows (2.13)
_MANY = 16  # tokens; from this number on, multiplication takes longer than the transfer of the weights
_GROUP = 32  # weights of a row that share a scale in int4
_ROWS = 16  # the int4 kernel's number of rows is a multiple of it


def _multiplies_bf16() -> bool:
    # Without such instructions bf16 takes three to five times as long as fp32 (torch 2.13).
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return supported is not None and supported()


def _multiplies_int4() -> bool:
    # With AVX2 alone the kernel for int4 takes longer than the one for int8 (torch 2.13).
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


class Weight:
    """A matrix of shape `(out, in)`, with a bias or without, in the form in which a processor multiplies it fastest.

    With `int8` a value is a byte, with a scale for each row; values that were stored in int4 take half a byte if the
    processor multiplies that faster. With `many`, a copy with more bits is kept, which is faster for many tokens.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, int8: bool, many: bool = True) -> None:
        self.bias = bias
        self.scale = self.wide = self.scales_and_zeros = None
        self.weight = weight.contiguous()
        if int8 and weight.shape[1] % _INT8_MULTIPLE == 0:
            if many:
                self.wide = weight.to(torch.bfloat16 if _multiplies_bf16() else weight.dtype).contiguous()
            packed = _pack_int4(weight) if _multiplies_int4() else None
            if packed is not None:
                self.weight, self.scales_and_zeros = packed
                return
            largest = weight.float().abs().amax(dim=1).clamp(min=1e-8)
            self.weight = (weight.float() * (127 / largest)[:, None]).round().to(torch.int8).contiguous()
            # With bf16 activations the kernel is three to twelve times as fast as with fp32 ones (torch 2.13).
            self.scale = (largest / 127).to(torch.bfloat16)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply `x` of shape `(tokens, in)`; the result has the shape `(tokens, out)`."""
        if self.scale is None and self.scales_and_zeros is None:
            return F.linear(x, self.weight, self.bias)
        if len(x) >= _MANY and self.wide is not None:
            product = F.linear(x.to(self.wide.dtype), self.wide).to(x.dtype)
        elif self.scale is None:
            packed = self.weight, _GROUP, self.scales_and_zeros
            product = torch.ops.aten._weight_int4pack_mm_for_cpu(x.to(torch.bfloat16), *packed).to(x.dtype)
        else:
            product = torch._weight_int8pack_mm(x.to(torch.bfloat16), self.weight, self.scale).to(x.dtype)
        return product if self.bias is None else product + self.bias


def _pack_int4(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return the packed int4 values of a matrix, with scales and zeros; `None` if its values are not int4.

    The matrix was stored in int4 with a scale for each 32 values of a row, and rounded to bf16.
    """
    rows, columns = weight.shape
    if rows % _ROWS or columns % _GROUP:
        return None
    groups = weight.float().view(-1, _GROUP)
    largest = groups.abs().amax(dim=1, keepdim=True).clamp(min=1e-30)
    values, scales = torch.empty_like(groups), torch.ones_like(largest)
    left = torch.arange(len(groups), device=weight.device)
    # The largest value of a group is mostly 7 or -8 times its scale, and less if scales are coarse.
    for steps in (7, 8, 6, 5, 4, 3, 2, 1):
        group, scale = groups[left], largest[left] / steps
        tried = (group / scale).round().clamp(-8, 7)
        scale = (group * tried).sum(dim=1, keepdim=True) / tried.square().sum(dim=1, keepdim=True).clamp(min=1)
        fits = ((tried * scale - group).abs() <= largest[left] / 128).all(dim=1)
        values[left[fits]], scales[left[fits]] = tried[fits], scale[fits]
        left = left[~fits]
        if len(left) == 0 or (steps == 8 and 2 * len(left) > len(groups)):
            break
    if len(left):
        return None
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu((values + 8).int().view(rows, columns), 1)
    scales = scales.view(rows, -1).t()
    return packed, torch.stack((scales, torch.zeros_like(scales)), dim=-1).to(torch.bfloat16).contiguous()


class Norm:
    """A root mean square norm, multiplied by factors of shape `(..., width)`.

    The factors are not multiplied into the next matrix: Gemma's factors differ a hundredfold, but the int8 values of a
    row share one scale.
    """

    def __init__(self, factors: torch.Tensor, epsilon: float) -> None:
        self.factors, self.epsilon = factors, epsilon
        width = factors.shape[-1]
        self._scaled_factors = (factors.float() * width**0.5).to(factors.dtype)
        self._least = torch.tensor((width * epsilon) ** 0.5, device=factors.device)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize the last dimension of `x`."""
        if x.device.type != "cpu":
            if self.factors.dim() == 1:
                return F.rms_norm(x, x.shape[-1:], self.factors, self.epsilon)
            return F.rms_norm(x, x.shape[-1:], eps=self.epsilon) * self.factors
        # On a CPU rms_norm is eight operations (torch 2.13).
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x / torch.hypot(length, self._least) * self._scaled_factors
