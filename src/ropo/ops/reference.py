"""Rotation and stretch in their readable form: factor by factor, differentiable by autograd, for any dtype and device.

The fast forms are tested against these; merging and diagnostics use them, since there a second does not matter.
"""

from __future__ import annotations

__all__ = ()

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

_Order = Literal["forward", "reverse"]


def _arithmetic_dtype(*tensors: Tensor) -> torch.dtype:
    """Return the widest dtype among the tensors, and float32 at least.

    Chained rotations in bfloat16 drift (relative error 9e-3 after twelve stages); computed in float32 and rounded once
    they are as accurate as one matrix product.
    """
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


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
    order: _Order

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
        dtype = _arithmetic_dtype(x, self.angles)
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


@dataclass(frozen=True)
class Reflections:
    """Reflect at the hyperplanes of several vectors, one after the other.

    H = H(u_1) H(u_2) ... H(u_k) with H(u) = I - 2 u u^T / ||u||^2 (Householder, 1958). An even number k makes
    det H = +1, and equal pairs make H the identity.

    Args:
        vectors: (k, d), rows are the u_i; none may be zero.

    Cost: O(k d) per vector; arithmetic in float32 or wider, results in the input's dtype.
    """

    vectors: Float[Tensor, "k d"]

    @property
    def dim(self) -> int:
        """Number of coordinates reflected."""
        return self.vectors.shape[1]

    def apply(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Return x @ H for rows x."""
        return self._reflect(x, self.vectors)

    def apply_transpose(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Return x @ H^T for rows x."""
        return self._reflect(x, self.vectors.flip(0))

    def to_dense(self) -> Float[Tensor, "d d"]:
        """Return H itself, in the vectors' dtype."""
        return self.apply(torch.eye(self.dim, dtype=self.vectors.dtype, device=self.vectors.device))

    def _reflect(self, x: Tensor, vectors: Tensor) -> Tensor:
        dtype = _arithmetic_dtype(x, vectors)
        y = x.to(dtype)
        for vector in vectors.to(dtype):
            unit = vector / vector.norm()
            y = y - 2 * (y @ unit).unsqueeze(-1) * unit
        return y.to(x.dtype)


_Factor = GivensTree | Reflections


@dataclass(frozen=True)
class Product:
    """Multiply rotations: R = F_1 F_2 ... F_k.

    Args:
        dim: Number of coordinates d.
        factors: The F_i in the order in which the product is written.

    Cost: the sum of the factors; one rounding at the end.
    """

    dim: int
    factors: Sequence[_Factor]

    def apply(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Return x @ R for rows x."""
        y = x.to(_arithmetic_dtype(x))
        for factor in self.factors:
            y = factor.apply(y)
        return y.to(x.dtype)

    def apply_transpose(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Return x @ R^T for rows x."""
        y = x.to(_arithmetic_dtype(x))
        for factor in reversed(self.factors):
            y = factor.apply_transpose(y)
        return y.to(x.dtype)

    def to_dense(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "d d"]:
        """Return R itself; for tests and small sizes only."""
        return self.apply(torch.eye(self.dim, dtype=dtype))


def ropo_rotation(
    dim: int, givens: Float[Tensor, "trees planes"] | None, reflections: Float[Tensor, "k d"] | None
) -> Product:
    """Build R = G_reverse G_forward H(u_1) ... H(u_k) from a layer's parameters.

    Our reconstruction of the multi-granularity rotation of arXiv 2508.17637, which publishes neither the factors'
    number nor their order; this one has both parameter counts that the paper and its first version state.

    Args:
        dim: Number of coordinates d.
        givens: (trees, d - 1) radians: the forward tree, then the reverse tree where there are two; None for no tree.
        reflections: (k, d) vectors, None for none.

    Returns:
        The rotation, factor by factor.
    """
    factors: list[_Factor] = []
    if givens is not None:
        trees = [GivensTree(givens[0], "forward")]
        if givens.shape[0] == 2:
            trees.insert(0, GivensTree(givens[1], "reverse"))
        factors += trees
    if reflections is not None:
        factors.append(Reflections(reflections))
    return Product(dim, factors)


def stretched_plainly(
    y: Float[Tensor, "*batch n"], log_scale: Float[Tensor, " n"], bias: Float[Tensor, " n"] | None
) -> Float[Tensor, "*batch n"]:
    """Return exp(log_scale) (y - bias) + bias, the stretch of a layer's output y, in the dtype of y.

    A neuron is lengthened by exp(log_scale), so its product with the input is; the bias is no part of that product.
    """
    scale = log_scale.exp()
    return (scale * y if bias is None else scale * (y - bias) + bias).to(y.dtype)
