"""The stretch and its gradients in plain PyTorch, for any device; `ropo.kernels` has them for GPUs and CPUs."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def stretched(
    y: Float[Tensor, "tokens n"], scale: Float[Tensor, " n"], bias: Float[Tensor, " n"] | None
) -> Float[Tensor, "tokens n"]:
    """Return scale (y - bias) + bias in plain PyTorch, in the dtype of y."""
    return (y * scale if bias is None else torch.addcmul(bias - bias * scale, y, scale)).to(y.dtype)


def gradients(
    grad: Float[Tensor, "tokens n"],
    z: Float[Tensor, "tokens n"],
    scale: Float[Tensor, " n"],
    bias: Float[Tensor, " n"] | None,
) -> tuple[Float[Tensor, "tokens n"], Float[Tensor, " n"]]:
    """Return the gradients of y, scale grad, and of the scale's logarithm, the sum over tokens of grad (z - bias)."""
    rows = grad.to(scale.dtype)
    grad_log_scale = torch.linalg.vecdot(rows, z.to(rows.dtype), dim=0)
    if bias is not None:
        grad_log_scale = grad_log_scale - rows.sum(0) * bias
    return (grad * scale).to(grad.dtype), grad_log_scale
