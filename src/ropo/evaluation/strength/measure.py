"""Measure adapters at several strengths, and name the one that gains most within a budget of forgetting."""

from __future__ import annotations

__all__ = ()

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from ropo.core.errors import UserError
from ropo.core.files import read_text, write_atomically
from ropo.core.record import Source
from ropo.diagnostics.behaviour import dpo_margins
from ropo.diagnostics.table import interval
from ropo.evaluation.contestants import Contestant
from ropo.evaluation.knowledge.text import cut_text
from ropo.evaluation.results import ModelResult, SuiteResult
from ropo.evaluation.strength import StrengthSettings
from ropo.evaluation.strength.curves import draw_curves
from ropo.evaluation.strength.scores import Curve, score_strengths
from ropo.evaluation.suites import Workplace
from ropo.evaluation.unit_values import UnitValues, metrics_of, ratio_values
from ropo.lm.adapters import is_adapter
from ropo.lm.fingerprint import fingerprint_source
from ropo.lm.held_out import BETA, HeldOutPairs, trained_limits, trained_otherwise, trained_plainly, trained_with
from ropo.lm.sampling import model_name
from ropo.lm.strength import split_strength, with_strength

_PICTURE = "strength.svg"


def measure(contestants: Sequence[Contestant], settings: StrengthSettings, workplace: Workplace) -> SuiteResult:
    """Measure adapters at several strengths.

    Returns:
        The result, in which each adapter at each strength is a model of its own, called NAME@T.

    Raises:
        UserError: If one is no adapter or has no strength, or a pair is malformed.

    Cost: see `score_strengths`, for each adapter.
    """
    for each in contestants:
        _check_adapter(each)
    limits = trained_limits(contestants[0].source, settings.max_length, [each.source for each in contestants])
    beta = settings.beta or trained_with(contestants[0].source, "beta", BETA)
    plain = trained_plainly(contestants[0].source) if settings.plain_prompts is None else settings.plain_prompts
    text = read_text(settings.text, "text")
    models: list[ModelResult] = []
    notes = [
        "gains, margin and KL are measured from each adapter's base model; kl is KL(adapter || base) at the tokens of "
        "these answers, exact over the vocabulary, and says nothing of answers that the adapter would give itself"
    ]
    for each in contestants:
        pairs = settings.pairs_for(each.source, limits, plain)
        windows = cut_text(each, text, settings.window, settings.max_windows)
        with workplace.progress(f"turning {each.name}", len(pairs.tokens) + len(windows)) as advance:
            curve = score_strengths(each, settings.strengths, pairs, windows, workplace, advance)
        notes += pairs.notes()
        found = list(_results_of(each, curve, settings.strengths, beta, workplace.seed))
        if settings.forgetting_budget is not None:
            notes.append(choose(each.name, found, settings.forgetting_budget))
        models += found
    notes += trained_otherwise({each.name: each.source for each in contestants}, limits, beta, plain)
    workplace.output.mkdir(parents=True, exist_ok=True)
    write_atomically(workplace.output / _PICTURE, draw_curves(models))
    return SuiteResult(
        suite="strength",
        settings={
            **settings.shown(),
            "data": model_name(settings.data),
            "max_length": limits.max_length,
            "beta": beta,
            "plain_prompts": plain,
        },
        data=_sources(pairs, settings, text),
        models=models,
        notes=[*dict.fromkeys(notes), f"the curves are drawn in {_PICTURE}"],
        seed=workplace.seed,
    )


def choose(name: str, results: Sequence[ModelResult], budget: float) -> str:
    """Name the strength that gains most while it forgets no more than a budget.

    The gain is the fall of the held-out DPO loss. The margin would grow on where a stronger adapter turns some pairs
    further and loses others.
    """
    within = [each for each in results if (each.metric("forgetting").value or 0.0) <= budget]
    if not within:
        return f"{name}: every strength forgets more than {budget:g} nats per token; try weaker ones (--strengths)"
    best = min(within, key=lambda each: each.metric("loss").value or 0.0)
    loss, margin, forgetting = (best.metric(each) for each in ("loss", "margin", "forgetting"))
    best.details["chosen"] = True
    return (
        f"{name}: of the strengths that forget at most {budget:g} nats per token, {best.details['strength']:g} gains "
        f"most: DPO loss {loss.value:.4g}, margin {margin.value:.3g}, forgetting {forgetting.value:.3g}"
        f"{interval(forgetting.low, forgetting.high)}; chosen on these pairs and this text, so measure it on others"
    )


def _check_adapter(contestant: Contestant) -> None:
    if split_strength(contestant.source)[1] is not None:
        raise UserError(f"model {contestant.source}: names one strength, and this suite turns it; use --strengths")
    if not is_adapter(contestant.source):
        raise UserError(f"model {contestant.source}: is no PEFT adapter, and only an adapter has a strength")


def _results_of(
    contestant: Contestant, curve: Curve, strengths: Sequence[float], beta: float, seed: int
) -> Iterator[ModelResult]:
    """Yield the adapter at each strength."""
    for number, strength in enumerate(strengths):
        source = with_strength(contestant.source, strength)
        of_pairs, of_text = _values_of_pairs(curve, number, beta), _values_of_text(curve, number)
        yield ModelResult(
            name=f"{contestant.name}@{strength:g}",
            source=model_name(source),
            fingerprint=fingerprint_source(source),
            metrics=[*metrics_of(of_pairs, "pairs", seed), *metrics_of(of_text, "windows", seed)],
            details={"adapter": contestant.name, "strength": strength},
        )


def _values_of_pairs(curve: Curve, number: int, beta: float) -> dict[str, UnitValues]:
    log_probs, gains = curve.log_probs[number], curve.log_probs[number] - curve.reference
    if not np.isfinite(log_probs).all() or not np.isfinite(curve.reference).all():
        raise UserError("log-probs: must be finite, got NaN or infinity; the model is broken on this data")
    margin = dpo_margins(torch.from_numpy(log_probs), torch.from_numpy(curve.reference), beta)
    loss = -torch.nn.functional.logsigmoid(margin)
    return {
        "loss": UnitValues(loss.numpy(), f"mean DPO loss at beta {beta:g}, in nats; ln 2 for the base model"),
        "margin": UnitValues(margin.numpy(), f"mean DPO margin at beta {beta:g}, in nats"),
        "accuracy": UnitValues((margin > 0).numpy(), "share of pairs with a DPO margin above 0"),
        "chosen_gain": UnitValues(gains[:, 0], "mean log-prob of the chosen answer over the base model's"),
        "rejected_gain": UnitValues(gains[:, 1], "mean log-prob of the rejected answer over the base model's"),
        "kl": ratio_values(
            curve.kl[number], curve.tokens.astype(float), "KL(adapter || base) in nats per token of the pairs' answers"
        ),
    }


def _values_of_text(curve: Curve, number: int) -> dict[str, UnitValues]:
    rise = curve.losses[number] - curve.reference_losses
    return {
        "text_loss": UnitValues(curve.losses[number], "mean negative log-likelihood of the text in nats per token"),
        "forgetting": UnitValues(rise, "rise of the text's loss over the base model's, in nats per token"),
    }


def _sources(pairs: HeldOutPairs, settings: StrengthSettings, text: str) -> dict[str, Source]:
    return {
        "pairs": Source(name=model_name(pairs.data.source), sha256=pairs.data.sha256, counts=pairs.counts()),
        "text": Source.of(settings.text.name, text, characters=len(text)),
    }
