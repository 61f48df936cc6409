"""Givens rotations in a tournament tree: the fine granularity of RoPO's rotation, in its readable form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ropo.ops.precision import arithmetic_dtype

Order = Literal["forward", "reverse"]


def tree_levels(dim: int) -> list[tuple[int, int]]:
    """List the levels of the tournament tree over coordinates 0 .. dim - 1, fine to coarse.

    At stride s = 1, 2, 4, ... the planes are (i, i + s) for i = 0, 2s, 4s, ... while i + s < dim; an odd one out is
    carried up. All levels together have dim - 1 planes.

    Args:
        dim: Number of coordinates, at least 1.

    Returns:
        A `(stride, planes)` pair per level, ceil(log2 dim) of them.
    """
    strides = (1 << level for level in range((dim - 1).bit_length()))
    return [(stride, len(range(0, dim - stride, 2 * stride))) for stride in strides]


@dataclass(frozen=True)
class GivensTree:
    """Rotate by a tournament tree of Givens rotations, one angle per plane.

    With L_s the product of the (disjoint) plane rotations [[cos, -sin], [sin, cos]] at stride s,

        G_forward = L_last ... L_4 L_2 L_1      takes any column vector to e_0 (fine to coarse)
        G_reverse = L_1 L_2 L_4 ... L_last      takes e_0 to any column vector (coarse to fine)

    our reconstruction of the bidirectional integrated Givens matrices of arXiv 2508.17637.

    Args:
        angles: (dim - 1,) radians, level after level, fine to coarse.
        order: Which of the two products.

    Cost: O(d) per vector; arithmetic in float32 or wider, results in the input's dtype.
    """

    angles: Float[Tensor, " planes"]
    order: Order

    @property
    def dim(self) -> int:
        """Number of coordinates rotated."""
        return self.angles.shape[0] + 1

    def apply(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Return x @ G for rows x."""
        return self._walk(x, coarse_first=self.order == "forward", sign=1.0)

    def apply_transpose(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Return x @ G^T for rows x."""
        return self._walk(x, coarse_first=self.order == "reverse", sign=-1.0)

    def to_dense(self) -> Float[Tensor, "d d"]:
        """Return G itself, in the angles' dtype."""
        return self.apply(torch.eye(self.dim, dtype=self.angles.dtype, device=self.angles.device))

    def _walk(self, x: Tensor, coarse_first: bool, sign: float) -> Tensor:
        dtype = arithmetic_dtype(x, self.angles)
        angles = self.angles.to(dtype)
        levels = tree_levels(self.dim)
        steps = list(zip(levels, angles.split([planes for _, planes in levels]), strict=True))
        y = x.to(dtype)
        for (stride, _), level_angles in reversed(steps) if coarse_first else steps:
            y = _rotate_planes(y, level_angles.cos(), sign * level_angles.sin(), stride)
        return y.to(x.dtype)


def _rotate_planes(x: Tensor, cos: Tensor, sin: Tensor, stride: int) -> Tensor:
    dim = x.shape[-1]
    first, second = slice(0, dim - stride, 2 * stride), slice(stride, dim, 2 * stride)
    out = x.clone()
    out[..., first] = cos * x[..., first] + sin * x[..., second]
    out[..., second] = cos * x[..., second] - sin * x[..., first]
    return out
