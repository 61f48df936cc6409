"""Rotate activations: by blocks, or plane by plane where kernels do; both are a `Rotation`."""

from __future__ import annotations

__all__ = ()

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ropo.ops.blocks import RotationBlocks, build_blocks, build_blocks_of_layers
from ropo.ops.choose import by_planes
from ropo.ops.cpu import rotation as kernels

_Parts = tuple[Float[Tensor, "trees planes"] | None, Float[Tensor, "k d"] | None]


@runtime_checkable
class Rotation(Protocol):
    """An orthogonal R, in whatever form: `reference.Product`, `RotationBlocks` or `Planes`."""

    def apply(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Return x @ R for rows x, in their dtype."""
        ...


class Planes(NamedTuple):
    """R as its parameters, turned plane by plane by C kernels.

    Args:
        givens: (trees, d - 1) float32 radians, the forward tree first, or None.
        reflections: (k, d) float32 vectors, or None.
    """

    givens: Float[Tensor, "trees planes"] | None
    reflections: Float[Tensor, "k d"] | None

    def apply(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Return x @ R for rows x, in their dtype.

        Cost: 2 tokens d (4 + k) multiplications forward, three times that backward, where x is rotated once more. For
        the backward pass it keeps x itself and (2 trees + k) d numbers. Arithmetic in float32, one rounding.
        """
        return _TurnPlanes.apply(x, *self)


class _TurnPlanes(torch.autograd.Function):
    """One node of the graph. Everything is invertible, so x rotated is not kept: the kernel turns back from it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, givens: Tensor | None, reflections: Tensor | None) -> Tensor:
        out, table = kernels.turned(x, givens, reflections)
        ctx.counts = [0 if part is None else len(part) for part in (givens, reflections)]
        ctx.save_for_backward(x, table)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, table = ctx.saved_tensors
        return kernels.turned_back(x, grads[0], table, *ctx.counts)


def rotation_of(dim: int, givens: Tensor | None, reflections: Tensor | None) -> RotationBlocks | Planes:
    """Return R of a layer's parameters in the form that is fastest where they are; see `build_blocks`."""
    part = reflections if givens is None else givens
    if part is not None and by_planes(part):
        return Planes(givens, reflections)
    return build_blocks(dim, givens, reflections)


def rotations_of_layers(dim: int, layers: Sequence[_Parts]) -> Sequence[RotationBlocks | Planes]:
    """Return R of several layers of one width and kind at once, each in the form of `rotation_of`.

    Args:
        dim: Number of coordinates d.
        layers: Each layer's angles and reflection vectors.

    Cost: where blocks are built, some sixty operations on small tensors however many layers there are.
    """
    first = layers[0][1] if layers[0][0] is None else layers[0][0]
    if first is not None and by_planes(first):
        return [Planes(*parts) for parts in layers]
    stacked = (None if parts[0] is None else torch.stack(parts) for parts in zip(*layers, strict=True))
    return build_blocks_of_layers(dim, *stacked)
