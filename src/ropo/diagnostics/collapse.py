"""Collapse of neurons and of representations: pairwise cosines, effective rank, isotropy."""

from __future__ import annotations

__all__ = ()

from collections.abc import Iterable

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ropo.core.record import Measure
from ropo.diagnostics.pairs import unit_rows

COLLAPSED = 0.9
_COSINE_BINS = 4000


class CosineDistribution(Measure):
    """Summarise the cosines between neurons, over pairs i < j.

    `share_above_0_9` is the share of nearly parallel pairs; the quantiles are read from bins of width 0.0005.
    """

    pairs: int
    mean: float
    median: float
    p01: float
    p99: float
    largest: float
    share_above_0_9: float


def cosine_distribution(blocks: Iterable[Float64[Tensor, " pairs"]]) -> CosineDistribution | None:
    """Summarise a stream of pairwise cosines in constant memory.

    Args:
        blocks: Cosines as `ropo.diagnostics.pairs` yields them.

    Returns:
        The distribution, or None when there is no pair (fewer than two neurons).

    Cost: one pass over the cosines.
    """
    histogram = torch.zeros(_COSINE_BINS, dtype=torch.float64)
    total, largest, above, count = 0.0, -1.0, 0, 0
    for cosines in blocks:
        if not len(cosines):
            continue
        histogram += torch.histc(cosines, _COSINE_BINS, -1.0, 1.0).cpu()
        total += float(cosines.sum())
        largest = max(largest, float(cosines.max()))
        above += int((cosines > COLLAPSED).sum())
        count += len(cosines)
    if not count:
        return None
    p01, median, p99 = histogram_quantiles(histogram, -1.0, 1.0, (0.01, 0.5, 0.99))
    return CosineDistribution(
        pairs=count,
        mean=total / count,
        median=median,
        p01=p01,
        p99=p99,
        largest=largest,
        share_above_0_9=above / count,
    )


def histogram_quantiles(
    histogram: Float64[Tensor, " bins"], low: float, high: float, shares: tuple[float, ...]
) -> list[float]:
    """Read quantiles from the counts of equal bins between `low` and `high`: the middle of the bin that holds each."""
    cumulative = histogram.cumsum(0)
    wanted = torch.tensor(shares, dtype=torch.float64) * cumulative[-1]
    bins = torch.searchsorted(cumulative, wanted).clamp(max=len(histogram) - 1)
    width = (high - low) / len(histogram)
    return (low + width * (bins.double() + 0.5)).tolist()


def effective_rank(rows: Float[Tensor, "n d"]) -> float | None:
    """Compute the effective rank of a matrix: how many directions its rows really use.

    erank = exp(-sum_k p_k ln p_k), p_k = sigma_k / sum_l sigma_l, sigma the singular values
    (Roy & Vetterli 2007, "The effective rank"). Between 1 (all rows parallel) and min(n, d).

    Args:
        rows: Rows scaled to length one (zero rows are left out): neurons of a weight, or hidden states of tokens.

    Returns:
        The effective rank, or None when no row has a direction.

    Cost: the singular values of an n x d matrix through the eigenvalues of its smaller Gram matrix, in float64.
    """
    rows = rows[(rows != 0).any(dim=1)]
    if not len(rows):
        return None
    unit = unit_rows(rows)
    gram = unit.T @ unit if unit.shape[0] > unit.shape[1] else unit @ unit.T
    singular = torch.linalg.eigvalsh(gram).clamp_(min=0.0).sqrt_()
    shares = singular / singular.sum()
    return float(torch.exp(-torch.special.xlogy(shares, shares).sum()))


def isotropy(rows: Float[Tensor, "n d"]) -> float | None:
    """Compute how evenly rows point in all directions: 1 when they do, towards 0 when they crowd.

    I = min_c Z(c) / max_c Z(c), Z(c) = sum_i exp(c^T w^_i), c over both signs of the eigenvectors of W^T W
    (Mu & Viswanath 2018, arXiv 1702.01417; here on rows of length one, so that norms play no part).

    Args:
        rows: As in `effective_rank`.

    Returns:
        A number in (0, 1], or None when no row has a direction.

    Cost: one eigendecomposition of d x d in float64.
    """
    rows = rows[(rows != 0).any(dim=1)]
    if not len(rows):
        return None
    unit = unit_rows(rows)
    projections = unit @ torch.linalg.eigh(unit.T @ unit).eigenvectors
    partition = torch.cat([projections.exp().sum(dim=0), (-projections).exp().sum(dim=0)])
    return float(partition.min() / partition.max())
