"""Scale a frozen layer's output, one factor a neuron."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ropo.adapter import plain_stretch
from ropo.kernels import fused_on


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
        z = _arithmetic_for(y, log_scale).stretched(y.reshape(-1, y.shape[-1]), log_scale, bias).view(y.shape)
        ctx.save_for_backward(z, log_scale, bias)
        return z

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        z, log_scale, bias = ctx.saved_tensors
        grad, z = (tensor.reshape(-1, z.shape[-1]) for tensor in (grads[0], z))
        grad_y, grad_log_scale = _arithmetic_for(z, log_scale).gradients(grad, z, log_scale, bias)
        grad_bias = None
        if ctx.needs_input_grad[2] and bias is not None:
            grad_bias = ((1 - log_scale.exp()) * grad.sum(0)).to(bias.dtype)
        return grad_y.view(grads[0].shape), grad_log_scale, grad_bias


def differences_on(device: torch.device) -> list[float]:
    """Return how far the kernels are from plain PyTorch, relatively, for each of their results."""
    from ropo.kernels import stretch as kernels

    generator = torch.Generator(device).manual_seed(0)
    grad, y = (torch.randn(300, 70, device=device, generator=generator) for _ in range(2))
    log_scale, bias = (torch.randn(70, device=device, generator=generator) for _ in range(2))
    results = [
        [each.stretched(y, log_scale, bias), *each.gradients(grad, y, log_scale, bias)]
        for each in (kernels, plain_stretch)
    ]
    return [float((ours - theirs).norm() / theirs.norm()) for ours, theirs in zip(*results, strict=True)]


def _arithmetic_for(y: Tensor, log_scale: Tensor) -> ModuleType:
    """Return `ropo.kernels.stretch` where it knows the device and the dtypes, else `plain_stretch`."""
    if y.dtype == torch.float64 or log_scale.dtype != torch.float32 or not fused_on(y.device, differences_on):
        return plain_stretch
    from ropo.kernels import stretch as kernels  # imports Triton, which is not on every machine

    return kernels
