"""The product of reflections in a form that is exactly the identity where its vectors come in equal pairs.

A pair H(u) H(u') of unit vectors, multiplied out with the step e = u' - u and q = e e^T, is

    x H(u) H(u') = x + c C [u; e],     c = x [u; e]^T,     C = -2 [[q, q - 1], [1, 1]]

since u u'^T = 1 - q / 2. Where u' = u, e and q are zeros, and so is every number that is added to x: one reflection
after the other would leave a rounding error of x itself, and in bfloat16 a new adapter would not be its base model.
u' and -u' are one reflection; the nearer to u of the two keeps the numbers small.

Several pairs are one such product: with all u and e as the rows of V, diag(C) the pairs' small matrices on the
diagonal, and N the products V V^T of each pair with those behind it,

    H(u_1) ... H(u_k) = I + V^T mix V,     mix^-1 = diag(C)^-1 - N

the compact WY form (Schreiber and Van Loan, 1989) by pairs.
"""

from __future__ import annotations

__all__ = ()

from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def compact_reflections(
    vectors: Float[Tensor, "layers k d"],
) -> tuple[Float[Tensor, "layers k 1"], Float[Tensor, "layers k d"], Float[Tensor, "layers k k"]]:
    """Return the vectors' signed norms, V, and mix with H(u_1) ... H(u_k) = I + V^T mix V; see the head of this file.

    Args:
        vectors: An even number k of them for each layer, none of them zero.

    Raises:
        ValueError: If k is odd.
    """
    if vectors.shape[1] % 2:
        raise ValueError(f"reflections: must be an even number of vectors, got {vectors.shape[1]}")
    norms = vectors.norm(dim=-1, keepdim=True)
    norms[:, 1::2].copysign_((vectors[:, 0::2] * vectors[:, 1::2]).sum(-1, keepdim=True))
    basis = vectors / norms
    basis[:, 1::2] -= basis[:, 0::2]
    diagonal = _on_diagonal(-2 * basis[:, 1::2].square().sum(-1))
    ahead = (basis @ basis.mT).mul_(_of_later_pairs(basis.shape[1], basis.device))
    # `unitriangular` reads ones where the zeros of the diagonal are: the left side is I - diag(C) N.
    mix = torch.linalg.solve_triangular(-diagonal @ ahead, diagonal, upper=True, unitriangular=True)
    return norms, basis, mix


def compact_reflections_gradient(
    norms: Float[Tensor, "layers k 1"],
    basis: Float[Tensor, "layers k d"],
    mix: Float[Tensor, "layers k k"],
    d_basis: Float[Tensor, "layers k d"],
    d_mix: Float[Tensor, "layers k k"],
) -> Float[Tensor, "layers k d"]:
    """Return the vectors' gradient from those of V and mix.

    With K = mix^-1, dK = -mix^T dmix mix^T. K's diagonal is [[-1, q - 1], [1, -q]] / 2 for each pair, and above it
    stand the products of V, negative; a unit vector's gradient is orthogonal to it.
    """
    d_inverse = -mix.mT @ d_mix @ mix.mT
    d_ahead = -d_inverse * _of_later_pairs(basis.shape[1], basis.device)
    d_basis = d_basis + (d_ahead + d_ahead.mT) @ basis
    first, step = basis[:, 0::2], basis[:, 1::2]
    d_first, d_step = d_basis[:, 0::2], d_basis[:, 1::2]
    above, below = d_inverse.diagonal(1, 1, 2)[:, 0::2], d_inverse.diagonal(0, 1, 2)[:, 1::2]
    d_step = d_step + (above - below).unsqueeze(-1) * step  # dq = 2 e de, and K's two q come with halves
    units = torch.stack([first, first + step], 2).flatten(1, 2)
    d_units = torch.stack([d_first - d_step, d_step], 2).flatten(1, 2)
    return (d_units - (d_units * units).sum(-1, keepdim=True) * units) / norms


def _on_diagonal(squares: Float[Tensor, "layers pairs"]) -> Float[Tensor, "layers k k"]:
    """Return diag(C) from the pairs' -2 q, zeros beside it."""
    layers, pairs = squares.shape
    matrix = squares.new_zeros(layers, 2 * pairs, 2 * pairs)
    on, above, below = (matrix.diagonal(offset, 1, 2) for offset in (0, 1, -1))
    on[:, 0::2], above[:, 0::2] = squares, squares + 2
    on[:, 1::2] = below[:, 0::2] = -2
    return matrix


@lru_cache(maxsize=16)
def _of_later_pairs(k: int, device: torch.device) -> Bool[Tensor, "k k"]:
    """Return where a column belongs to a later pair than its row."""
    pair = torch.arange(k, device=device) // 2
    return pair.unsqueeze(1) < pair
