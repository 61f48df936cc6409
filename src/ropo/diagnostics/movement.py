"""How far a weight moved from its reference: angles between neurons, directions, magnitudes, rotations."""

from __future__ import annotations

__all__ = ["cosine_changes"]

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ropo.core.record import Measure
from ropo.diagnostics.collapse import COLLAPSED, histogram_quantiles
from ropo.diagnostics.pairs import unit_rows

_CHANGE_BINS = 4000
_LOG_SMALLEST, _LOG_LARGEST = -17.0, 0.5  # cosine changes from below float64 rounding up to 2


class CosineChanges(Measure):
    """Summarise |cos(w_i', w_j') - cos(w_i, w_j)| over pairs i < j.

    The quantiles are read from 4,000 bins, logarithmic between 1e-17 and 2 (1 % wide). `collapsed` counts the pairs
    that are above 0.9 now and rose by more than 0.1, so were not before: neurons that fell together.
    """

    pairs: int
    rms: float
    median: float
    p99: float
    largest: float
    collapsed: int


class NeuronMovement(Measure):
    """Summarise how each neuron moved: its own turn in degrees, and its length over the reference's.

    `distance` is ||W' - W||_F / ||W||_F.
    """

    turn_mean: float
    turn_largest: float
    magnitude_smallest: float
    magnitude_mean: float
    magnitude_largest: float
    distance: float


class RotationSize(Measure):
    """Describe an orthogonal matrix: how far it is from I, and how far from orthogonal."""

    distance: float
    largest_angle: float
    orthogonality_error: float


def cosine_changes(
    blocks: Iterable[Float64[Tensor, " pairs"]], reference_blocks: Iterable[Float64[Tensor, " pairs"]]
) -> CosineChanges | None:
    """Summarise how the cosines between neurons changed, in constant memory.

    Args:
        blocks: Cosines of the weight, as `ropo.diagnostics.pairs` yields them.
        reference_blocks: Cosines of the same pairs of the reference.

    Returns:
        The distribution of absolute changes, or None when there is no pair.

    Cost: one pass over both.
    """
    histogram = torch.zeros(_CHANGE_BINS, dtype=torch.float64)
    squares, largest, collapsed, count = 0.0, 0.0, 0, 0
    for cosines, before in zip(blocks, reference_blocks, strict=True):
        if not len(cosines):
            continue
        rise = cosines - before
        change = rise.abs()
        logarithms = change.clamp(min=10**_LOG_SMALLEST).log10_()
        histogram += torch.histc(logarithms, _CHANGE_BINS, _LOG_SMALLEST, _LOG_LARGEST).cpu()
        squares += float(change.square().sum())
        largest = max(largest, float(change.max()))
        collapsed += int(((cosines > COLLAPSED) & (rise > 1 - COLLAPSED)).sum())
        count += len(cosines)
    if not count:
        return None
    median, p99 = (10**q for q in histogram_quantiles(histogram, _LOG_SMALLEST, _LOG_LARGEST, (0.5, 0.99)))
    return CosineChanges(
        pairs=count, rms=math.sqrt(squares / count), median=median, p99=p99, largest=largest, collapsed=collapsed
    )


def neuron_movement(weight: Float[Tensor, "n d"], reference: Float[Tensor, "n d"]) -> NeuronMovement | None:
    """Measure how far each neuron moved: the angle between w_i' and w_i, and ||w_i'|| / ||w_i||.

    The angle is 2 asin(||w^_i' - w^_i|| / 2), which stays exact for tiny angles where acos does not.

    Args:
        weight: Finite weight without zero rows; rows are neurons.
        reference: The weight it started from, without zero rows.

    Returns:
        The summary, or None when there is no neuron.

    Cost: a few passes over both weights, in float64.
    """
    if not len(weight):
        return None
    after, before = weight.detach().double(), reference.detach().double()
    half_chords = torch.linalg.vector_norm(unit_rows(after) - unit_rows(before), dim=1) / 2
    turns = torch.rad2deg(2 * torch.asin(half_chords.clamp_(max=1.0)))
    ratios = torch.linalg.vector_norm(after, dim=1) / torch.linalg.vector_norm(before, dim=1)
    return NeuronMovement(
        turn_mean=float(turns.mean()),
        turn_largest=float(turns.max()),
        magnitude_smallest=float(ratios.min()),
        magnitude_mean=float(ratios.mean()),
        magnitude_largest=float(ratios.max()),
        distance=float(torch.linalg.vector_norm(after - before) / torch.linalg.vector_norm(before)),
    )


def orthogonality_error(rotation: Float[Tensor, "d d"]) -> float:
    """Measure how far a matrix is from orthogonal: max |R^T R - I|, in float64.

    Args:
        rotation: A square matrix.

    Returns:
        The largest absolute entry; 0 for an exactly orthogonal matrix.

    Cost: one product of d x d matrices in float64.
    """
    rotation = rotation.detach().double()
    identity = torch.eye(len(rotation), dtype=torch.float64, device=rotation.device)
    return float((rotation.T @ rotation - identity).abs().max())


def rotation_size(rotation: Float[Tensor, "d d"]) -> RotationSize:
    """Measure a rotation: ||R - I||_F / sqrt(d), its largest angle in degrees, and its orthogonality error.

    The angles are those of the planes that the rotation turns: (R + R^T) / 2 has the eigenvalues cos(theta). Each
    plane adds 8 sin^2(theta / 2) to ||R - I||_F^2, so a thousand small angles together turn a weight visibly.

    Args:
        rotation: An orthogonal matrix.

    Returns:
        The three numbers.

    Cost: the eigenvalues of a symmetric d x d matrix in float64, which resolve angles above 1e-6 degrees.
    """
    rotation = rotation.detach().double()
    identity = torch.eye(len(rotation), dtype=torch.float64, device=rotation.device)
    return RotationSize(
        distance=float(torch.linalg.matrix_norm(rotation - identity)) / math.sqrt(len(rotation)),
        largest_angle=float(torch.rad2deg(torch.linalg.eigvalsh((rotation + rotation.T) / 2)[0].clamp(-1, 1).acos())),
        orthogonality_error=orthogonality_error(rotation),
    )
