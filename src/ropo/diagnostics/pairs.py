"""Walk over pairs of neurons of a weight, in float64 and in bounded memory: every pair, or a seeded sample."""

from __future__ import annotations

__all__ = ["all_cosines", "check_weight", "nonzero_rows", "unit_rows"]

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from ropo.core.errors import UserError

BLOCK = 1024
_SAMPLE_CHUNK = 8192


def check_weight(weight: Float[Tensor, "n d"], name: str = "weight") -> None:
    """Refuse a weight that holds NaN or infinity.

    Raises:
        UserError: If an entry is not finite.
    """
    bad = int((~torch.isfinite(weight)).sum())
    if bad:
        raise UserError(f"{name}: must be finite, has {bad} NaN or infinite entries; check the checkpoint")


def nonzero_rows(weight: Float[Tensor, "n d"]) -> Bool[Tensor, " n"]:
    """Mark the neurons that have a direction: a row of zeros has none, and every measure leaves it out."""
    return (weight != 0).any(dim=1)


def unit_rows(weight: Float[Tensor, "n d"]) -> Float64[Tensor, "n d"]:
    """Scale every row to length one in float64: w^_i = w_i / ||w_i||."""
    rows = weight.detach().double()
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)


def all_cosines(weight: Float[Tensor, "n d"]) -> Iterator[Float64[Tensor, " pairs"]]:
    """Yield the cosines between neurons, every pair i < j exactly once, block by block.

    The order depends on the shape alone, so the blocks of two weights of one shape can be zipped.

    Args:
        weight: Finite weight without zero rows; rows are neurons.

    Yields:
        Up to 1,048,576 cosines, clipped to [-1, 1] against rounding.

    Cost: n^2 d multiplications in float64; memory for two blocks of 1,024 rows and one of cosines beside the weight.
    """
    for start in range(0, len(weight), BLOCK):
        rows = unit_rows(weight[start : start + BLOCK])
        for other in range(start, len(weight), BLOCK):
            cosines = (rows @ unit_rows(weight[other : other + BLOCK]).T).clamp_(-1.0, 1.0)
            if other > start:
                yield cosines.flatten()
            else:
                upper = torch.ones_like(cosines, dtype=torch.bool).triu_(diagonal=1)
                yield cosines[upper]


def sampled_cosines(weight: Float[Tensor, "n d"], pairs: int, seed: int) -> Iterator[Float64[Tensor, " pairs"]]:
    """Yield the cosines of pairs of different neurons drawn uniformly with replacement.

    Args:
        weight: Finite weight without zero rows, at least two rows; rows are neurons.
        pairs: How many pairs to draw.
        seed: Seed of the draw; the pairs depend on it, the number of neurons and `pairs` alone, on every device.

    Yields:
        Up to 8,192 cosines.

    Cost: `pairs` x d multiplications in float64.
    """
    n = len(weight)
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(n, (pairs,), generator=generator)
    second = (first + torch.randint(1, n, (pairs,), generator=generator)) % n
    for i, j in zip(first.split(_SAMPLE_CHUNK), second.split(_SAMPLE_CHUNK), strict=True):
        yield (unit_rows(weight[i]) * unit_rows(weight[j])).sum(dim=1).clamp_(-1.0, 1.0)
