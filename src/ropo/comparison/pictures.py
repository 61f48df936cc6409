"""The pictures of a run's neurons, drawn once and kept: their cosines, and their places on two principal axes."""

from __future__ import annotations

__all__ = ()

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float64
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import Tensor

from ropo.comparison.results import CosineHistogram, NeuronProjection
from ropo.core.errors import UserError
from ropo.core.files import write_atomically
from ropo.core.record import Measure, read_typed
from ropo.diagnostics.layers import layer_weight, linear_layers
from ropo.diagnostics.pairs import all_cosines, check_weight, nonzero_rows, unit_rows
from ropo.lm.loading import load_model, load_policy

_QUERY_AND_VALUE = ("q_proj", "v_proj")
BINS = 200  # of width 0.01 between -1 and 1
_MOST = 300


class Pictures(Measure):
    """The pictures of one run."""

    cosines: list[CosineHistogram]
    neurons: NeuronProjection | None


def pictures_of(run: Path, reference: str, file: Path) -> Pictures:
    """Return a run's pictures, drawn now or kept in a file.

    Raises:
        UserError: If a model cannot be loaded, or its weights are not finite.

    Cost: both models in memory, and twice the cosines of up to six layers.
    """
    if not file.is_file():
        write_atomically(file, _draw(load_policy(str(run)), load_model(reference)).model_dump_json() + "\n")
    return read_typed(Pictures, file, "pictures of this version", "compare again", "delete it and compare again")


def _draw(policy: Any, reference: Any) -> Pictures:
    """Draw the same layers of a model and its reference; the neurons of the middle layer of the first kind."""
    before, after = linear_layers(reference), linear_layers(policy)
    names = pictured_layers(list(before), str(reference.config.model_type))
    weights = {name: (layer_weight(before[name]), layer_weight(after[name])) for name in names}
    cosines = [
        CosineHistogram(layer=name, edges=cosine_edges(), before=cosine_counts(old), after=cosine_counts(new))
        for name, (old, new) in weights.items()
    ]
    middle = names[min(1, len(names) - 1)]
    old, new = weights[middle]
    return Pictures(cosines=cosines, neurons=project_neurons(middle, new, old))


def pictured_layers(names: Sequence[str], model_type: str) -> list[str]:
    """Return first, middle and last layer of each kind that adapters adapt by default, whatever the run adapts."""
    targets = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model_type, _QUERY_AND_VALUE)
    kinds = [[name for name in names if name.rpartition(".")[2] == target] for target in targets]
    chosen = [kind for kind in kinds if kind] or [list(names)]
    return list(dict.fromkeys(kind[at] for kind in chosen for at in (0, len(kind) // 2, -1)))


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


def project_neurons(
    layer: str, weight: Float[Tensor, "n d"], reference: Float[Tensor, "_ _"], seed: int = 0
) -> NeuronProjection | None:
    """Project normalised neurons on the two principal axes of the reference's.

    The axes are the first right singular vectors of the reference's centred rows; the sign of each makes its entry of
    largest magnitude positive, so that equal weights give equal pictures. Both weights are centred at the reference's
    mean.

    Args:
        layer: The layer's name.
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
    return NeuronProjection(
        layer=layer,
        explained=(float(variance[0]), float(variance[1])),
        before=_places(before - centre, plane),
        after=_places(after - centre, plane),
    )


def _places(rows: Float64[Tensor, "n d"], plane: Float64[Tensor, "2 d"]) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in rows @ plane.T]
