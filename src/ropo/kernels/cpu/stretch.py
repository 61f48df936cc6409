"""The stretch of a layer's output on a CPU, in float32; `ropo.adapter.stretch` has the equation."""

from __future__ import annotations

import torch
from torch import Tensor

from ropo.kernels.cpu.library import call

SLAB = 64
"""Tokens that one thread adds, as in stretch.c."""


def stretched(y: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """Return scale (y - bias) + bias for (tokens, n) outputs."""
    y = y.contiguous()
    shift = torch.zeros_like(scale) if bias is None else (bias - bias * scale).to(scale.dtype)
    z = torch.empty_like(y)
    call("ropo_stretch", tuple(y.shape), (y, scale, shift, z))
    return z


def gradients(grad: Tensor, z: Tensor, scale: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the gradients of y, scale grad, and of the scale's logarithm, the sum over tokens of grad (z - bias)."""
    grad, z = grad.contiguous(), z.contiguous()
    kept = torch.zeros_like(scale) if bias is None else bias.to(scale.dtype).contiguous()
    grad_y = torch.empty_like(grad)
    sums = scale.new_empty(max(-(-len(grad) // SLAB), 1), len(scale))
    call("ropo_stretch_gradients", tuple(grad.shape), (grad, z, scale, kept, grad_y, sums))
    return grad_y, sums[0]
