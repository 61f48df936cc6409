"""Score held-out pairs with every model, and report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from ropo.core.record import Source
from ropo.evaluation.contestants import Contestant, fingerprint_source, model_results
from ropo.evaluation.preference import PreferenceSettings
from ropo.evaluation.preference.metrics import read_scores
from ropo.evaluation.preference.scores import PairScores, score_pairs
from ropo.evaluation.readings import compare_models
from ropo.evaluation.results import SuiteResult
from ropo.evaluation.suites import Workplace
from ropo.lm.loading import adapter_base, is_adapter
from ropo.lm.sampling import model_name
from ropo.preferences import load_preferences


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
    data = load_preferences(settings.data, settings.split, not settings.plain_prompts)
    pairs: list[dict[str, Any]] = list(data.pairs)[: settings.max_pairs]
    lengths = answer_lengths(pairs)
    reference = find_reference(contestants[0], settings.reference)
    fingerprints = [fingerprint_source(each.source) for each in contestants]
    base = fingerprint_source(reference.source)
    scores: dict[str, PairScores] = {}
    for each, fingerprint in zip((reference, *contestants), (base, *fingerprints), strict=True):
        if fingerprint not in scores:
            with workplace.progress(f"scoring pairs with {each.name}", len(pairs)) as advance:
                scores[fingerprint] = score_pairs(each, pairs, settings.max_length, workplace, advance)
    readings = [
        read_scores(scores[each], None if each == base else scores[base], lengths, settings.beta)
        for each in fingerprints
    ]
    compared = compare_models([each.name for each in contestants], readings, "pairs", workplace.seed)
    models = model_results(contestants, fingerprints, compared)
    counts = {"pairs": len(pairs), "duplicates": data.duplicates, "ties": data.ties}
    return SuiteResult(
        suite="preference",
        settings={**settings.shown(), "data": model_name(data.source), "reference": reference.name},
        data={"pairs": Source(name=model_name(data.source), sha256=data.sha256, counts=counts)},
        models=models,
        notes=[
            f"pairs {data.reading}",
            *notes_on(reference, scores, lengths, any(each != base for each in fingerprints), settings.max_length),
        ],
        seed=workplace.seed,
    )


def find_reference(first: Contestant, named: str | None) -> Contestant:
    """Return what implicit rewards are measured from: what was named, the first adapter's base, or the first model."""
    source = named or (adapter_base(first.source) if is_adapter(first.source) else None)
    return first if source is None else Contestant(model_name(source), source)


def answer_lengths(pairs: Sequence[Mapping[str, Any]]) -> Int[np.ndarray, "pairs 2"]:
    """Return the characters of chosen and rejected answers, which are the same for every model's tokenizer."""
    return np.array([[_characters(pair[name]) for name in ("chosen", "rejected")] for pair in pairs])


def notes_on(
    reference: Contestant,
    scores: Mapping[str, PairScores],
    lengths: Int[np.ndarray, "pairs 2"],
    rewarded: bool,
    longest: int,
) -> list[str]:
    """Say what the numbers are measured from, and what they leave out."""
    notes = [f"accuracy, margin and gains are measured from {reference.name}"]
    if not rewarded:
        notes = ["accuracy and margin need a model that differs from the reference; add one, or name --reference"]
    equal = int((lengths[:, 0] == lengths[:, 1]).sum())
    if equal:
        notes.append(f"{equal} pairs have answers of one length and are in neither half of the split")
    cut = max(score.cut for score in scores.values())
    if cut:
        notes.append(f"{cut} pairs were cut to {longest} tokens of prompt or answer; raise --max_length to see all")
    return notes


def _characters(answer: Any) -> int:
    if isinstance(answer, str):
        return len(answer)
    return sum(len(message["content"]) for message in answer if isinstance(message.get("content"), str))
