"""Scale a frozen layer's output, one factor a neuron."""

from __future__ import annotations

__all__ = ()

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ropo.ops.choose import stretching_for


def stretch(
    y: Float[Tensor, "*batch n"], log_scale: Float[Tensor, " n"], bias: Float[Tensor, " n"] | None
) -> Float[Tensor, "*batch n"]:
    """Return exp(log_scale) * (y - bias) + bias: the neurons stretched, the bias left alone.

    Args:
        y: (*batch, n) output of the frozen layer, bias included.
        log_scale: (n,) float32 or wider.
        bias: (n,) of the frozen layer, or None.

    Returns:
        (*batch, n) in the dtype of y.

    Cost: one pass over y each way. For the backward pass it keeps its own output, which the attention that follows a
    value projection keeps anyway.
    """
    return _Stretch.apply(y, log_scale, bias)


class _Stretch(torch.autograd.Function):
    """One node of the graph: autograd would keep y beside z, and make three passes where one is enough.

    With z = s (y - b) + b and s = exp(l): dz/dl = s (y - b) = z - b, so the output serves the backward pass and y need
    not be kept; dz/dy = s and dz/db = 1 - s.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, log_scale: Tensor, bias: Tensor | None) -> Tensor:
        ctx.arithmetic = stretching_for(y, log_scale)
        z, scale = ctx.arithmetic.stretched(y, log_scale, bias)
        ctx.save_for_backward(z, scale, bias)
        return z

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        z, scale, bias = ctx.saved_tensors
        grad_y, grad_log_scale = ctx.arithmetic.gradients(grads[0], z, scale, bias)
        grad_bias = None
        if ctx.needs_input_grad[2] and bias is not None:
            grad_bias = ((1 - scale) * grads[0].reshape(-1, len(scale)).sum(0)).to(bias.dtype)
        return grad_y, grad_log_scale, grad_bias
