"""The stretch and its gradients in plain PyTorch, for any device; `ropo.ops` has them for GPUs and CPUs."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def stretched(
    y: Float[Tensor, "*batch n"], log_scale: Float[Tensor, " n"], bias: Float[Tensor, " n"] | None
) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, " n"]]:
    """Return exp(log_scale) (y - bias) + bias in plain PyTorch, in the dtype of y, and exp(log_scale)."""
    scale = log_scale.exp()
    return (y * scale if bias is None else torch.addcmul(bias - bias * scale, y, scale)).to(y.dtype), scale


def gradients(
    grad: Float[Tensor, "*batch n"],
    z: Float[Tensor, "*batch n"],
    scale: Float[Tensor, " n"],
    bias: Float[Tensor, " n"] | None,
) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, " n"]]:
    """Return the gradients of y, scale grad, and of the scale's logarithm, the sum over tokens of grad (z - bias)."""
    rows, outputs = (each.reshape(-1, len(scale)).to(scale.dtype) for each in (grad, z))
    with torch.autocast(grad.device.type, enabled=False):
        grad_log_scale = torch.linalg.vecdot(rows, outputs, dim=0)
    if bias is not None:
        grad_log_scale = grad_log_scale - rows.sum(0) * bias
    return (grad * scale).to(grad.dtype), grad_log_scale
