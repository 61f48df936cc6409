"""Scale a frozen layer's output, one factor a neuron."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


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
    @staticmethod
    def forward(ctx: Any, y: Tensor, log_scale: Tensor, bias: Tensor | None) -> Tensor:
        scale = log_scale.exp()
        z = (y * scale if bias is None else torch.addcmul(bias - bias * scale, y, scale)).to(y.dtype)
        ctx.save_for_backward(z, log_scale, bias)
        return z

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        z, log_scale, bias = ctx.saved_tensors
        grad_y = (grad * log_scale.exp()).to(grad.dtype) if ctx.needs_input_grad[0] else None
        grad_log_scale = grad_bias = None
        if ctx.needs_input_grad[1]:
            # d z / d log_scale = z - bias
            rows = grad.reshape(-1, grad.shape[-1]).to(log_scale.dtype)
            grad_log_scale = torch.linalg.vecdot(rows, z.reshape(rows.shape).to(rows.dtype), dim=0)
            if bias is not None:
                grad_log_scale = grad_log_scale - rows.sum(0) * bias
        if ctx.needs_input_grad[2] and bias is not None:
            grad_bias = ((1 - log_scale.exp()) * grad.reshape(-1, grad.shape[-1]).sum(0)).to(bias.dtype)
        return grad_y, grad_log_scale, grad_bias
