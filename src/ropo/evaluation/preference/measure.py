"""Score held-out pairs with every model, keeping log-probs on disk, and report what they say, pair by pair."""

from __future__ import annotations

__all__ = ()

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from ropo.core.kept import kept_rows
from ropo.core.record import Source
from ropo.diagnostics.behaviour import dpo_margins
from ropo.evaluation.contestants import Contestant, finite, loaded, model_results
from ropo.evaluation.preference import PreferenceSettings
from ropo.evaluation.results import SuiteResult
from ropo.evaluation.suites import Workplace
from ropo.evaluation.unit_values import UnitValues
from ropo.lm.adapters import adapter_base, is_adapter
from ropo.lm.fingerprint import fingerprint_source
from ropo.lm.held_out import (
    BETA,
    HeldOutPairs,
    first_trained,
    trained_limits,
    trained_otherwise,
    trained_plainly,
    trained_with,
)
from ropo.lm.log_probs import pair_log_probs
from ropo.lm.sampling import model_name
from ropo.lm.tokens import Limits


def measure(contestants: Sequence[Contestant], settings: PreferenceSettings, workplace: Workplace) -> SuiteResult:
    """Score held-out pairs with every model and compare them.

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
    limits = trained_limits(trained, settings.max_length, [each.source for each in (reference, *contestants)])
    beta = settings.beta or trained_with(trained, "beta", BETA)
    plain = trained_plainly(trained) if settings.plain_prompts is None else settings.plain_prompts
    pairs = _read_pairs(models, settings, limits, plain)
    used = pairs[base]
    lengths = _answer_lengths(used.records)
    scores: dict[str, AnswerScores] = {}
    for fingerprint, each in models.items():
        with workplace.progress(f"scoring pairs with {each.name}", len(used.records)) as advance:
            scores[fingerprint] = _score_pairs(each, pairs[fingerprint], workplace, advance)
    of_models = [
        read_scores(scores[each], None if each == base else scores[base], lengths, beta) for each in fingerprints
    ]
    name = model_name(used.data.source)
    return SuiteResult(
        suite="preference",
        settings={
            **settings.shown(),
            "data": name,
            "reference": reference.name,
            "max_length": limits.max_length,
            "beta": beta,
            "plain_prompts": plain,
        },
        data={"pairs": Source(name=name, sha256=used.data.sha256, counts=used.counts())},
        models=model_results(contestants, fingerprints, of_models, "pairs", workplace.seed),
        notes=[
            *used.notes(),
            *trained_otherwise({each.name: each.source for each in contestants}, limits, beta, plain),
            *_notes_on(reference, lengths, any(each != base for each in fingerprints)),
        ],
        seed=workplace.seed,
    )


def _read_pairs(
    models: Mapping[str, Contestant], settings: PreferenceSettings, limits: Limits, plain_prompts: bool
) -> dict[str, HeldOutPairs]:
    """Read the pairs for each model by its fingerprint, the same pairs for all, whatever their tokenizers."""
    found = {print_: settings.pairs_for(each.source, limits, plain_prompts) for print_, each in models.items()}
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


@dataclass(frozen=True)
class AnswerScores:
    """What one model says of the answers; columns are chosen, rejected.

    Args:
        log_probs: Summed over an answer's tokens, in nats.
        tokens: Length of each answer.
    """

    log_probs: Float[np.ndarray, "pairs 2"]
    tokens: Int[np.ndarray, "pairs 2"]


def _score_pairs(
    contestant: Contestant,
    pairs: HeldOutPairs,
    workplace: Workplace,
    advance: Callable[[int], None],
) -> AnswerScores:
    """Return the log-probs of all answers under a model, computed now or kept from an earlier run.

    Args:
        contestant: The model.
        pairs: The pairs, tokenised for this model.
        workplace: Where scores are kept, and how many answers go through the model at once.
        advance: Called with the number of pairs just done.

    Raises:
        UserError: If the model cannot be loaded, or says NaN or infinity of a pair.

    Cost: one forward pass over chosen and rejected, through an unmerged adapter, as training computes them.
    """
    tokens = pairs.tokens
    size = max(1, workplace.batch_size // 2)

    def compute(start: int) -> Iterator[list[Any]]:
        with loaded(contestant, merged=False) as (model, _):
            for first in range(start, len(tokens), size):
                yield finite(pair_log_probs(model, tokens[first : first + size], pairs.limits).tolist())

    wanted = {"model": fingerprint_source(contestant.source), **pairs.content()}
    rows = kept_rows(workplace.cache / "log_probs", wanted, len(tokens), compute, advance)
    return AnswerScores(np.array(rows, dtype=float), pairs.answer_lengths())


def read_scores(
    scores: AnswerScores, reference: AnswerScores | None, lengths: Int[np.ndarray, "pairs 2"], beta: float
) -> dict[str, UnitValues]:
    """Turn log-probs into one number per pair and metric.

    The margin is DPO's (`ropo.diagnostics.behaviour.dpo_margins`), and accuracy the share of margins above 0. Split by
    which answer has more characters, it shows a model that learnt length: accurate where the chosen answer is longer,
    wrong where it is shorter (Park et al. 2024, arXiv 2403.19159).
    """
    chosen, rejected = scores.log_probs.T
    per_token = scores.log_probs / scores.tokens
    prefers = "share of pairs whose chosen answer is the likelier one"
    by_metric = _split("prefers_chosen", chosen > rejected, prefers, lengths)
    by_metric["prefers_chosen_per_token"] = UnitValues(per_token[:, 0] > per_token[:, 1], f"{prefers} per token")
    by_metric["chosen_log_prob"] = UnitValues(chosen, "mean summed log-prob of the chosen answer, in nats")
    by_metric["rejected_log_prob"] = UnitValues(rejected, "mean summed log-prob of the rejected answer, in nats")
    if reference is not None:
        gain = scores.log_probs - reference.log_probs
        margin = dpo_margins(torch.from_numpy(scores.log_probs), torch.from_numpy(reference.log_probs), beta).numpy()
        by_metric |= _split("accuracy", margin > 0, "share of pairs with a DPO margin above 0", lengths)
        by_metric["margin"] = UnitValues(margin, f"mean DPO margin at beta {beta:g}, in nats")
        by_metric["chosen_gain"] = UnitValues(gain[:, 0], "mean log-prob of the chosen answer over the reference's")
        by_metric["rejected_gain"] = UnitValues(gain[:, 1], "mean log-prob of the rejected answer over the reference's")
    return by_metric


def _split(
    name: str, passed: Bool[np.ndarray, " pairs"], meaning: str, lengths: Int[np.ndarray, "pairs 2"]
) -> dict[str, UnitValues]:
    """Read a share of all pairs, of those whose chosen answer is longer, and of those whose chosen one is shorter."""
    chosen, rejected = lengths.T
    return {
        name: UnitValues(passed, meaning),
        f"{name}_when_longer": UnitValues(passed, f"{meaning}; pairs whose chosen answer is longer", chosen > rejected),
        f"{name}_when_shorter": UnitValues(passed, f"{meaning}; pairs whose chosen one is shorter", chosen < rejected),
    }
