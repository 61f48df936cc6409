"""Rotate activations plane by plane, with the parameters themselves: how kernels for CPUs do it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ropo.ops.cpu import rotation as kernels
from ropo.ops.trial import differences_on
from ropo.ops.trust import kernels_on


class Planes(NamedTuple):
    """R as its parameters, where `by_planes` says so.

    Args:
        givens: (trees, d - 1) float32 radians, the forward tree first, or None.
        reflections: (k, d) float32 vectors, or None.
    """

    givens: Float[Tensor, "trees planes"] | None
    reflections: Float[Tensor, "k d"] | None


def by_planes(part: Tensor) -> bool:
    """Tell whether there are kernels for a rotation of whose parameters `part` is one; else matrices must be built.

    Plain float32 tensors only: sharded ones have not all their numbers here.
    """
    plain = type(part) in (Tensor, torch.nn.Parameter) and part.dtype == torch.float32
    return plain and kernels_on(part.device, differences_on) == "cpu"


def turn_planes(x: Float[Tensor, "*batch d"], planes: Planes) -> Float[Tensor, "*batch d"]:
    """Return x @ R for rows x.

    Args:
        x: (*batch, d) activations of any floating dtype.
        planes: R.

    Returns:
        (*batch, d) in the dtype of x.

    Cost: 2 tokens d (4 + k) multiplications forward, three times that backward, where x is rotated once more. For the
    backward pass it keeps x itself and (2 trees + k) d numbers. Arithmetic in float32, one rounding.
    """
    return _TurnPlanes.apply(x, *planes)


class _TurnPlanes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, givens: Tensor | None, reflections: Tensor | None) -> Tensor:
        out, table = kernels.rotated(x, givens, reflections)
        ctx.counts = [0 if part is None else len(part) for part in (givens, reflections)]
        ctx.save_for_backward(x, table)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, table = ctx.saved_tensors
        return kernels.rotated_back(x, grads[0], table, *ctx.counts)
