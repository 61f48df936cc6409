"""The pictures of a run's neurons, drawn once and kept."""

from __future__ import annotations

__all__ = ()

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

from ropo.comparison.results import CosineHistogram, NeuronProjection
from ropo.core.files import write_atomically
from ropo.core.record import read_typed
from ropo.diagnostics.layers import layer_weight, linear_layers
from ropo.diagnostics.measure import Measure
from ropo.diagnostics.neurons import cosine_counts, cosine_edges, project_neurons
from ropo.lm.loading import load_model, load_policy

_QUERY_AND_VALUE = ("q_proj", "v_proj")


class Pictures(Measure):
    """The pictures of one run."""

    cosines: list[CosineHistogram]
    neurons: NeuronProjection | None


def pictures_of(run: Path, reference: str, file: Path) -> Pictures:
    """Return a run's pictures, drawn now or kept in a file.

    Args:
        run: Folder of the run.
        reference: The model that it started from.
        file: Where the pictures are kept.

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
    found = project_neurons(new, old)
    return Pictures(cosines=cosines, neurons=found and NeuronProjection(layer=middle, **found._asdict()))


def pictured_layers(names: Sequence[str], model_type: str) -> list[str]:
    """Return first, middle and last layer of each kind that adapters adapt by default, whatever the run adapts."""
    targets = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model_type, _QUERY_AND_VALUE)
    kinds = [[name for name in names if name.rpartition(".")[2] == target] for target in targets]
    chosen = [kind for kind in kinds if kind] or [list(names)]
    return list(dict.fromkeys(kind[at] for kind in chosen for at in (0, len(kind) // 2, -1)))
