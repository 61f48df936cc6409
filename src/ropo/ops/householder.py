"""Householder reflections: the coarse granularity of RoPO's rotation, in its readable form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ropo.ops.precision import arithmetic_dtype


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
        dtype = arithmetic_dtype(x, vectors)
        y = x.to(dtype)
        for vector in vectors.to(dtype):
            unit = vector / vector.norm()
            y = y - 2 * (y @ unit).unsqueeze(-1) * unit
        return y.to(x.dtype)
