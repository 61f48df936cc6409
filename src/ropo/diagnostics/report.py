"""Diagnose a whole model, alone or against its reference: the typed report, and what it sums up over layers."""

from __future__ import annotations

__all__ = ["DiagnosticReport", "diagnose"]

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from ropo.core.errors import UserError
from ropo.core.record import Measure, Provenance
from ropo.diagnostics.behaviour import Behaviour
from ropo.diagnostics.comparison import (
    AnswerComparison,
    HeldOut,
    Observation,
    PolicyComparison,
    TextComparison,
    compare,
    observe,
    reference_opener,
    sampled_kl,
)
from ropo.diagnostics.layers import LayerPair, pair_layers
from ropo.diagnostics.signals import Reading, advise, triggered
from ropo.diagnostics.weights import LayerMeasure, measure_layer


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


def diagnose(
    model: Any,
    reference: Any | None,
    tokenizer: PreTrainedTokenizerBase,
    held_out: HeldOut,
    names: tuple[str, str | None],
    shown: Callable[[list[LayerPair]], Iterable[LayerPair]] = lambda pairs: pairs,
) -> DiagnosticReport:
    """Measure a model against its reference.

    Args:
        model: A causal language model or an adapter on one, in evaluation mode.
        reference: Another model to compare with; None takes an adapter's base model, and nothing for a plain model.
        tokenizer: The model's own.
        held_out: What behaviour, answers and forgetting are measured on.
        names: What the report calls the model, and the reference that was named.
        shown: Wraps the layers while they are measured; for a progress bar.

    Returns:
        The report.

    Raises:
        UserError: If there are pairs and nothing to compare with.

    Cost: quadratic in the neurons of each layer; then see `ropo.diagnostics.comparison.observe`, for both models.
    """
    opener = reference_opener(model, reference)
    if held_out.pairs and opener is None:
        raise UserError("--pairs: log-prob changes need a model to compare with; add --reference")
    layers = [measure_layer(pair) for pair in shown(pair_layers(model, reference))]
    summary = summarise_layers(layers)
    policy = observe(model, tokenizer, held_out, with_hidden_states=True)
    before: Observation | None = None
    kl = None
    if opener is not None:
        with opener() as other:
            before = observe(other, tokenizer, held_out, with_hidden_states=True)
        if held_out.allows_kl:
            kl = sampled_kl(model, opener, held_out.prompts, policy.samples)
    comparison = compare(held_out, policy, before, kl)
    return DiagnosticReport(
        model=names[0],
        reference=names[1] or (None if opener is None else "its base model"),
        seed=held_out.settings.seed,
        summary=summary,
        layers=layers,
        behaviour=comparison.behaviour,
        answers=comparison.answers,
        text=comparison.text,
        warnings=find_warnings(summary, comparison),
    )
