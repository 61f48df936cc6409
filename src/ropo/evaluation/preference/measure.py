"""Score held-out pairs with every model, and report."""

from __future__ import annotations

__all__ = ()

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from ropo.core.record import Source
from ropo.evaluation.contestants import Contestant, model_results
from ropo.evaluation.preference import PreferenceSettings
from ropo.evaluation.preference.scores import AnswerScores, read_scores, score_pairs
from ropo.evaluation.results import SuiteResult
from ropo.evaluation.suites import Workplace
from ropo.evaluation.unit_values import compare_models
from ropo.lm.adapters import adapter_base, is_adapter
from ropo.lm.fingerprint import fingerprint_source
from ropo.lm.held_out import (
    BETA,
    HeldOutPairs,
    first_trained,
    trained_limits,
    trained_otherwise,
    trained_with,
)
from ropo.lm.sampling import model_name
from ropo.lm.tokens import Limits


def measure(contestants: Sequence[Contestant], settings: PreferenceSettings, workplace: Workplace) -> SuiteResult:
    """Score held-out pairs with every model and compare them.

    Args:
        contestants: The models; changes are against the first.
        settings: The suite's settings.
        workplace: Cache, seed, batch size and progress bar.

    Returns:
        The result. Metrics that need a reference are left out of a model that is the reference itself.

    Raises:
        UserError: If a pair is malformed or a model cannot be loaded.

    Cost: one forward pass over chosen and rejected for each model, the reference included; none for what is kept.
    """
    reference = _find_reference(contestants[0], settings.reference)
    fingerprints = [fingerprint_source(each.source) for each in contestants]
    base = fingerprint_source(reference.source)
    models = dict(zip((base, *fingerprints), (reference, *contestants), strict=True))
    trained = first_trained([each.source for each in contestants])
    limits = trained_limits(trained, settings.max_length)
    beta = settings.beta or trained_with(trained, "beta", BETA)
    pairs = _read_pairs(models, settings, limits)
    used = pairs[base]
    lengths = _answer_lengths(used.records)
    scores: dict[str, AnswerScores] = {}
    for fingerprint, each in models.items():
        with workplace.progress(f"scoring pairs with {each.name}", len(used.records)) as advance:
            scores[fingerprint] = score_pairs(each, pairs[fingerprint], workplace, advance)
    of_models = [
        read_scores(scores[each], None if each == base else scores[base], lengths, beta) for each in fingerprints
    ]
    compared = compare_models([each.name for each in contestants], of_models, "pairs", workplace.seed)
    name = model_name(used.data.source)
    return SuiteResult(
        suite="preference",
        settings={
            **settings.shown(),
            "data": name,
            "reference": reference.name,
            "max_length": limits.max_length,
            "beta": beta,
        },
        data={"pairs": Source(name=name, sha256=used.data.sha256, counts=used.counts())},
        models=model_results(contestants, fingerprints, compared),
        notes=[
            *used.notes(),
            *trained_otherwise({each.name: each.source for each in contestants}, limits, beta),
            *_notes_on(reference, lengths, any(each != base for each in fingerprints)),
        ],
        seed=workplace.seed,
    )


def _read_pairs(
    models: Mapping[str, Contestant], settings: PreferenceSettings, limits: Limits
) -> dict[str, HeldOutPairs]:
    """Read the pairs for each model by its fingerprint, the same pairs for all, whatever their tokenizers."""
    found = {fingerprint: settings.pairs_for(each.source, limits) for fingerprint, each in models.items()}
    places = [{record["where"] for record in pairs.records} for pairs in found.values()]
    return {fingerprint: pairs.only(set.intersection(*places)) for fingerprint, pairs in found.items()}


def _find_reference(first: Contestant, named: str | None) -> Contestant:
    """Return what implicit rewards are measured from: what was named, the first adapter's base, or the first model."""
    source = named or (adapter_base(first.source) if is_adapter(first.source) else None)
    return first if source is None else Contestant(model_name(source), source)


def _answer_lengths(pairs: Sequence[Mapping[str, Any]]) -> Int[np.ndarray, "pairs 2"]:
    """Return the characters of chosen and rejected answers, which are the same for every model's tokenizer."""
    return np.array([[_characters(pair[name]) for name in ("chosen", "rejected")] for pair in pairs])


def _notes_on(reference: Contestant, lengths: Int[np.ndarray, "pairs 2"], rewarded: bool) -> list[str]:
    """Say what the numbers are measured from, and what they leave out."""
    notes = [f"accuracy, margin and gains are measured from {reference.name}"]
    if not rewarded:
        notes = ["accuracy and margin need a model that differs from the reference; add one, or name --reference"]
    equal = int((lengths[:, 0] == lengths[:, 1]).sum())
    if equal:
        notes.append(f"{equal} pairs have answers of one length and are in neither half of the split")
    return notes


def _characters(answer: Any) -> int:
    if isinstance(answer, str):
        return len(answer)
    return sum(len(message["content"]) for message in answer if isinstance(message.get("content"), str))
