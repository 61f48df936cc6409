"""Scale a frozen layer's output, one factor a neuron."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ropo.ops import plain_stretch
from ropo.ops.cpu import stretch as on_cpu
from ropo.ops.trust import Family, kernels_on


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
        ctx.arithmetic = arithmetic_for(y, log_scale)
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


def differences_on(device: torch.device, family: Family) -> list[float]:
    """Return how far the kernels are from plain PyTorch, relatively, for each of their results."""
    generator = torch.Generator(device).manual_seed(0)
    grad, y = (torch.randn(300, 70, device=device, generator=generator) for _ in range(2))
    log_scale, bias = (torch.randn(70, device=device, generator=generator) for _ in range(2))
    ours, theirs = (
        (*each.stretched(y, log_scale, bias), *each.gradients(grad, y, log_scale.exp(), bias))
        for each in (_kernels(family), plain_stretch)
    )
    return [float((our - their).norm() / their.norm()) for our, their in zip(ours, theirs, strict=True)]


def arithmetic_for(y: Tensor, scale: Tensor) -> ModuleType:
    """Return the module with `stretched` and `gradients` that knows the device and the dtypes, else `plain_stretch`."""
    if y.dtype == torch.float64 or scale.dtype != torch.float32:
        return plain_stretch
    family = kernels_on(y.device, differences_on)
    if family is None or (family == "cpu" and y.dtype != torch.float32):
        return plain_stretch
    return _kernels(family)


def _kernels(family: Family) -> ModuleType:
    if family == "cpu":
        return on_cpu
    from ropo.ops.gpu import stretch as on_gpu  # imports Triton, which is not on every machine

    return on_gpu
