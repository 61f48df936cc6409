"""Pictures of a layer's neurons: the histogram of their cosines, and their places on two principal axes."""

from __future__ import annotations

__all__ = ["cosine_counts", "cosine_edges", "project_neurons"]

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ropo.core.errors import UserError
from ropo.diagnostics.pairs import all_cosines, check_weight, nonzero_rows, unit_rows

BINS = 200  # of width 0.01 between -1 and 1
_MOST = 300


class _Projection(NamedTuple):
    """The places of some neurons before and after, (neurons, 2), and the variance that the axes explain."""

    explained: tuple[float, float]
    before: list[tuple[float, float]]
    after: list[tuple[float, float]]


def cosine_edges() -> list[float]:
    """Return the edges of the bins of `cosine_counts`."""
    return [round(-1 + 2 * number / BINS, 10) for number in range(BINS + 1)]


def cosine_counts(weight: Float[Tensor, "n d"]) -> list[int]:
    """Count the cosines between neurons, over pairs i < j, in 200 equal bins from -1 to 1.

    Args:
        weight: A weight; rows are neurons, and rows of zeros are left out.

    Raises:
        UserError: If the weight holds NaN or infinity.

    Cost: see `ropo.diagnostics.pairs.all_cosines`.
    """
    check_weight(weight)
    counts = torch.zeros(BINS, dtype=torch.float64)
    for cosines in all_cosines(weight[nonzero_rows(weight)]):
        counts += torch.histc(cosines, BINS, -1.0, 1.0).cpu()
    return [int(count) for count in counts]


def project_neurons(weight: Float[Tensor, "n d"], reference: Float[Tensor, "_ _"], seed: int = 0) -> _Projection | None:
    """Project normalised neurons on the two principal axes of the reference's.

    The axes are the first right singular vectors of the reference's centred rows; the sign of each makes its entry of
    largest magnitude positive, so that equal weights give equal pictures. Both weights are centred at the reference's
    mean.

    Args:
        weight: The weight after training; rows are neurons. Those that are zero in either weight are left out.
        reference: The weight before.
        seed: Seed of the draw, where there are more neurons than are shown.

    Returns:
        The places, or None for fewer than three neurons or fewer than two inputs.

    Raises:
        UserError: If the shapes differ, or a weight holds NaN or infinity.

    Cost: the singular values of the shown neurons' matrix in float64.
    """
    if weight.shape != reference.shape:
        raise UserError(f"reference: must have the weight's shape {tuple(weight.shape)}, got {tuple(reference.shape)}")
    check_weight(weight)
    check_weight(reference, "reference")
    rows = torch.nonzero(nonzero_rows(weight) & nonzero_rows(reference)).flatten().cpu()
    if len(rows) < 3 or weight.shape[1] < 2:
        return None
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:_MOST]
    rows = rows[drawn.sort().values]
    before, after = unit_rows(reference[rows]).cpu(), unit_rows(weight[rows]).cpu()
    centre = before.mean(dim=0)
    _, singular, axes = torch.linalg.svd(before - centre, full_matrices=False)
    largest = axes[:2].gather(1, axes[:2].abs().argmax(dim=1, keepdim=True))
    plane = axes[:2] * largest.sign()
    variance = singular.square() / singular.square().sum().clamp(min=torch.finfo(torch.float64).tiny)
    return _Projection(
        (float(variance[0]), float(variance[1])), _places(before - centre, plane), _places(after - centre, plane)
    )


def _places(rows: Float64[Tensor, "n d"], plane: Float64[Tensor, "2 d"]) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in rows @ plane.T]
