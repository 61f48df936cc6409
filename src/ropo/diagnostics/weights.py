"""Measure one layer's weight: energy, angles between neurons, rank, and how all of it moved from a reference."""

from __future__ import annotations

__all__ = ["LayerMeasure"]

from collections.abc import Iterator

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ropo.core.errors import UserError
from ropo.core.record import Measure
from ropo.diagnostics.collapse import CosineDistribution, cosine_distribution, effective_rank, isotropy
from ropo.diagnostics.energy import hyperspherical_energy, sampled_energy
from ropo.diagnostics.layers import FactorProduct, LayerPair, layer_weight, rotations_of
from ropo.diagnostics.movement import (
    CosineChanges,
    NeuronMovement,
    RotationSize,
    cosine_changes,
    neuron_movement,
    rotation_size,
)
from ropo.diagnostics.pairs import all_cosines, check_weight, nonzero_rows, sampled_cosines

EXACT_NEURONS = 16_384
SAMPLED_PAIRS = 1_000_000
_SEED = 0


class WeightMeasure(Measure):
    """Describe one weight. Beyond 16,384 neurons energy and cosines come from a million sampled pairs.

    `energy_standard_error` is None for an exact energy. The optional rest is None where fewer than two neurons
    have a direction.
    """

    neurons: int
    inputs: int
    zero_neurons: int
    energy: float
    energy_standard_error: float | None
    cosines: CosineDistribution | None
    effective_rank: float | None
    isotropy: float | None


class WeightChange(Measure):
    """Describe how a weight differs from its reference; neurons that are zero in either are left out.

    `energy` is (HE' - HE) / HE, over the same sampled pairs where energies are sampled; None where HE is zero.
    """

    energy: float | None
    cosines: CosineChanges | None
    neurons: NeuronMovement | None


class _RotationMeasure(Measure):
    """Describe an adapter's rotation of one layer, whole and by factor in the order of the product."""

    adapter: str
    whole: RotationSize
    factors: list[tuple[str, RotationSize]]


class LayerMeasure(Measure):
    """Describe one layer."""

    name: str
    weight: WeightMeasure
    change: WeightChange | None
    rotations: list[_RotationMeasure]


def measure_layer(pair: LayerPair) -> LayerMeasure:
    """Measure one layer, and its change where it has a reference.

    Args:
        pair: The layer and its reference.

    Returns:
        The measures.

    Raises:
        UserError: If a weight holds NaN or infinity.

    Cost: see `ropo.diagnostics.pairs.all_cosines`, five times with a reference, twice without; memory for the two
    weights of this layer.
    """
    weight = layer_weight(pair.module)
    check_weight(weight, pair.name)
    change = None
    if pair.reference is not None:
        reference = layer_weight(pair.reference).to(weight.device)
        check_weight(reference, f"{pair.name} of the reference")
        change = measure_change(weight, reference)
    rotations = [_measure_rotation(adapter, rotation) for adapter, rotation in rotations_of(pair.module)]
    return LayerMeasure(name=pair.name, weight=measure_weight(weight), change=change, rotations=rotations)


def measure_weight(weight: Float[Tensor, "n d"]) -> WeightMeasure:
    """Measure the energy, the cosines and the rank of one weight; rows are neurons.

    Raises:
        UserError: If the weight holds NaN or infinity.
    """
    neurons = weight[nonzero_rows(weight)]
    energy, error = _energy(neurons)
    return WeightMeasure(
        neurons=len(weight),
        inputs=weight.shape[1],
        zero_neurons=len(weight) - len(neurons),
        energy=energy,
        energy_standard_error=error,
        cosines=cosine_distribution(_cosines(neurons)),
        effective_rank=effective_rank(neurons),
        isotropy=isotropy(neurons),
    )


def measure_change(weight: Float[Tensor, "n d"], reference: Float[Tensor, "_ _"]) -> WeightChange:
    """Measure how a weight differs from its reference; rows are neurons.

    Raises:
        UserError: If the shapes differ, or a weight holds NaN or infinity.
    """
    if weight.shape != reference.shape:
        raise UserError(f"reference: must have the weight's shape {tuple(weight.shape)}, got {tuple(reference.shape)}")
    both = nonzero_rows(weight) & nonzero_rows(reference)
    weight, reference = weight[both], reference[both]
    before = _energy(reference)[0]
    return WeightChange(
        energy=_energy(weight)[0] / before - 1.0 if before else None,
        cosines=cosine_changes(_cosines(weight), _cosines(reference)),
        neurons=neuron_movement(weight, reference),
    )


def _measure_rotation(adapter: str, rotation: FactorProduct) -> _RotationMeasure:
    """Measure a rotation and each of its factors in float64."""
    identity = torch.eye(rotation.dim, dtype=torch.float64)
    sizes = [(_factor_name(factor), rotation_size(factor.apply(identity))) for factor in rotation.factors]
    return _RotationMeasure(adapter=adapter, whole=rotation_size(rotation.apply(identity)), factors=sizes)


def _energy(neurons: Float[Tensor, "n d"]) -> tuple[float, float | None]:
    if len(neurons) > EXACT_NEURONS:
        return sampled_energy(neurons, SAMPLED_PAIRS, _SEED)
    return hyperspherical_energy(neurons), None


def _cosines(neurons: Float[Tensor, "n d"]) -> Iterator[Float64[Tensor, " pairs"]]:
    if len(neurons) > EXACT_NEURONS:
        return sampled_cosines(neurons, SAMPLED_PAIRS, _SEED)
    return all_cosines(neurons)


def _factor_name(factor: object) -> str:
    return " ".join(filter(None, (type(factor).__name__, getattr(factor, "order", ""))))
