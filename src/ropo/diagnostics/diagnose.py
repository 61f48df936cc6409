"""Measure a whole model, alone or against its reference: weights, held-out pairs, answers and plain text."""

from __future__ import annotations

__all__ = ["diagnose"]

from collections.abc import Callable, Iterable
from typing import Any

from transformers import PreTrainedTokenizerBase

from ropo.core.errors import UserError
from ropo.diagnostics.comparison import HeldOut, Observation, compare, observe, reference_opener, sampled_kl
from ropo.diagnostics.layers import LayerPair, pair_layers
from ropo.diagnostics.report import DiagnosticReport, find_warnings, summarise_layers
from ropo.diagnostics.weights import measure_layer


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
