"""RoPO's whole rotation as a product of its factors: the reference that the fast path is tested against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ropo.ops.givens import GivensTree
from ropo.ops.householder import Reflections
from ropo.ops.precision import arithmetic_dtype

Rotation = GivensTree | Reflections


@dataclass(frozen=True)
class Product:
    """Multiply rotations: R = F_1 F_2 ... F_k.

    Args:
        dim: Number of coordinates d.
        factors: The F_i in the order in which the product is written.

    Cost: the sum of the factors; one rounding at the end.
    """

    dim: int
    factors: Sequence[Rotation]

    def apply(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Return x @ R for rows x."""
        y = x.to(arithmetic_dtype(x))
        for factor in self.factors:
            y = factor.apply(y)
        return y.to(x.dtype)

    def apply_transpose(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Return x @ R^T for rows x."""
        y = x.to(arithmetic_dtype(x))
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
    factors: list[Rotation] = []
    if givens is not None:
        trees = [GivensTree(givens[0], "forward")]
        if givens.shape[0] == 2:
            trees.insert(0, GivensTree(givens[1], "reverse"))
        factors += trees
    if reflections is not None:
        factors.append(Reflections(reflections))
    return Product(dim, factors)
