"""The typed report that `ropo diagnose` writes, and what it sums up over layers."""

from __future__ import annotations

__all__ = ["DiagnosticReport"]

from collections.abc import Sequence
from typing import Literal

from ropo.core.record import Provenance
from ropo.diagnostics.advice import advise
from ropo.diagnostics.behaviour import Behaviour
from ropo.diagnostics.comparison import AnswerComparison, PolicyComparison, TextComparison
from ropo.diagnostics.measure import Measure
from ropo.diagnostics.signals import Reading, triggered
from ropo.diagnostics.weights import LayerMeasure


class LayerSummary(Measure):
    """Sum the layers up: total energy, its change over all layers, and the worst of the rest.

    What needs a reference is None without one.
    """

    layers: int
    energy: float
    energy_change: float | None
    largest_cosine_change: float | None
    collapsed_pairs: int | None
    largest_orthogonality_error: float | None


class DiagnosticReport(Measure, Provenance):
    """Everything that `ropo diagnose` measured; what was not asked for is None.

    `warnings` are sentences of `ropo.diagnostics.signals`.
    """

    schema_version: Literal[3] = 3
    model: str
    reference: str | None
    seed: int
    summary: LayerSummary
    layers: list[LayerMeasure]
    behaviour: Behaviour | None
    answers: AnswerComparison | None
    text: TextComparison | None
    warnings: list[str]


def summarise_layers(layers: Sequence[LayerMeasure]) -> LayerSummary:
    """Sum up the measures of at least one layer."""
    energy = sum(layer.weight.energy for layer in layers)
    changes = [layer.change for layer in layers if layer.change is not None]
    cosines = [change.cosines for change in changes if change.cosines is not None]
    errors = [rotation.whole.orthogonality_error for layer in layers for rotation in layer.rotations]
    return LayerSummary(
        layers=len(layers),
        energy=energy,
        energy_change=_energy_change(layers),
        largest_cosine_change=max((change.largest for change in cosines), default=None),
        collapsed_pairs=sum(change.collapsed for change in cosines) if cosines else None,
        largest_orthogonality_error=max(errors, default=None),
    )


def find_warnings(summary: LayerSummary, comparison: PolicyComparison) -> list[str]:
    """Say which signals the measured numbers trigger, and what to try."""
    readings = {} if summary.collapsed_pairs is None else {"collapsed_pairs": Reading(summary.collapsed_pairs)}
    readings |= {name: Reading(value) for name, value in comparison.numbers().items()} | comparison.readings()
    return [signal.describe(readings[signal.measure]) + advise(signal.name, readings) for signal in triggered(readings)]


def _energy_change(layers: Sequence[LayerMeasure]) -> float | None:
    """Weigh each layer's change with its reference energy, which is energy / (1 + change)."""
    pairs = [(layer.weight.energy, layer.change.energy) for layer in layers if layer.change is not None]
    known = [(energy, change) for energy, change in pairs if change is not None]
    before = sum(energy / (1.0 + change) for energy, change in known)
    return sum(energy - energy / (1.0 + change) for energy, change in known) / before if before else None
