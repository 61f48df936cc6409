"""Scale a frozen layer's output, one factor a neuron."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ropo.adapter import plain_stretch
from ropo.kernels import Family, works_on


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
        z = _arithmetic_for(y, scale).stretched(y.reshape(-1, y.shape[-1]), scale, bias).view(y.shape)
        ctx.save_for_backward(z, scale, bias)
        return z

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        z, scale, bias = ctx.saved_tensors
        grad, z = (tensor.reshape(-1, z.shape[-1]) for tensor in (grads[0], z))
        grad_y, grad_log_scale = _arithmetic_for(z, scale).gradients(grad, z, scale, bias)
        grad_bias = None
        if ctx.needs_input_grad[2] and bias is not None:
            grad_bias = ((1 - scale) * grad.sum(0)).to(bias.dtype)
        return grad_y.view(grads[0].shape), grad_log_scale, grad_bias


def differences_on(device: torch.device, family: Family) -> list[float]:
    """Return how far the kernels are from plain PyTorch, relatively, for each of their results."""
    generator = torch.Generator(device).manual_seed(0)
    grad, y = (torch.randn(300, 70, device=device, generator=generator) for _ in range(2))
    scale, bias = (torch.randn(70, device=device, generator=generator) for _ in range(2))
    ours, theirs = (
        (each.stretched(y, scale, bias), *each.gradients(grad, y, scale, bias))
        for each in (_kernels(family), plain_stretch)
    )
    return [float((our - their).norm() / their.norm()) for our, their in zip(ours, theirs, strict=True)]


def _arithmetic_for(y: Tensor, scale: Tensor) -> ModuleType:
    """Return the module with `stretched` and `gradients` that knows the device and the dtypes, else `plain_stretch`."""
    if y.dtype == torch.float64 or scale.dtype != torch.float32:
        return plain_stretch
    if works_on(y.device, "gpu", differences_on):
        return _kernels("gpu")
    if y.dtype == torch.float32 and works_on(y.device, "cpu", differences_on):
        return _kernels("cpu")
    return plain_stretch


def _kernels(family: Family) -> ModuleType:
    if family == "gpu":
        from ropo.kernels.gpu import stretch as on_gpu  # imports Triton, which is not on every machine

        return on_gpu
    from ropo.kernels.cpu import stretch as on_cpu

    return on_cpu
