"""The stretch of a layer's output on a CPU, in float32; `ropo.ops.stretching` has the equation."""

from __future__ import annotations

__all__ = ["gradients", "stretched"]

import torch
from torch import Tensor

from ropo.ops.cpu.library import call, threads_for

_SLAB = 64
"""Tokens that one thread adds, as in stretch.c."""


def stretched(y: Tensor, log_scale: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return exp(log_scale) (y - bias) + bias for outputs y, and exp(log_scale)."""
    y, log_scale = y.contiguous(), log_scale.contiguous()
    z, scale = torch.empty_like(y), torch.empty_like(log_scale)
    call("ropo_stretch", _sizes(y), (y, log_scale, _kept(bias), scale, z))
    return z, scale


def gradients(grad: Tensor, z: Tensor, scale: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the gradients of y, scale grad, and of the scale's logarithm, the sum over tokens of grad (z - bias)."""
    grad, z = grad.contiguous(), z.contiguous()
    sizes = _sizes(grad)
    grad_y, sums = torch.empty_like(grad), scale.new_empty(max(-(-sizes[0] // _SLAB), 1), len(scale))
    call("ropo_stretch_gradients", sizes, (grad, z, scale.contiguous(), _kept(bias), grad_y, sums))
    return grad_y, sums[0]


def _sizes(y: Tensor) -> tuple[int, int, int]:
    numbers, neurons = y.numel(), y.shape[-1]
    return numbers // neurons, neurons, threads_for(numbers)


def _kept(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.float().contiguous()
