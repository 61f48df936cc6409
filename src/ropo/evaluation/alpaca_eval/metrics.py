"""From verdicts to the suite's numbers, and what a reader has to know of them."""

from __future__ import annotations

__all__ = ()

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from ropo.core.intervals import Estimate, statistic_interval
from ropo.evaluation.alpaca_eval.win_rates import LengthControl, fit_length_control, standard_error
from ropo.evaluation.results import Change, Metric
from ropo.evaluation.unit_values import UnitValues, changes_of, metrics_of
from ropo.judging.judge import OrderCheck, notes_on_reading, warnings_first

UNITS = "prompts"
_LENGTH_CONTROLLED = "length_controlled_win_rate"
_WIN_MEANING = "percent of prompts that the judge prefers to the reference, ties a half"
_LC_MEANING = (
    "percent of prompts that the judge would prefer at equal lengths, by a logistic model of the length difference"
)
REFITS = 1000  # resamples of the interval, each of which takes a few milliseconds
_FOLLOWS_LENGTH = 90.0  # percent of the longer outputs, and of the shorter ones' rivals, that win with such a judge
_FEWEST = 10  # prompts of each kind, below which nothing is said of that
_ONE_SIDED = 0.05  # below this share of shorter (or longer) outputs, equal lengths lie outside of what was seen


@dataclass(frozen=True)
class Verdicts:
    """What a judge said of a model's outputs.

    Args:
        wins: Probability that the model's output is better, for each prompt; 0.5 without a verdict.
        missing: Where there is no verdict.
        reasons: Why, with counts.
        orders: The prompts that were judged in both orders.
        equal: Prompts where both outputs are the same text: a tie that nobody is asked about.
        read: How many verdicts, in both orders, were read from what, or why not; empty where the judge writes none.
    """

    wins: Float[np.ndarray, " n"]
    missing: Bool[np.ndarray, " n"]
    reasons: dict[str, Any]
    orders: OrderCheck
    equal: int
    read: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Judged:
    """The verdicts on one model's outputs, with what the length-controlled rate needs."""

    verdicts: Verdicts
    lengths: Int[np.ndarray, " n"]
    reference_lengths: Int[np.ndarray, " n"]
    difficulties: Float[np.ndarray, " n"] | None

    @property
    def extra(self) -> Int[np.ndarray, " n"]:
        """How many characters each output is longer than the reference's."""
        return self.lengths - self.reference_lengths

    @property
    def heard(self) -> bool:
        """Whether there is a verdict at all."""
        return bool(self.verdicts.equal) or not self.verdicts.missing.all()

    def fit(self, rows: Int[np.ndarray, " m"] | slice = slice(None)) -> tuple[LengthControl, float]:
        """Fit the length-controlled model to some prompts, and return it with its win rate."""
        difficulties = None if self.difficulties is None else self.difficulties[rows]
        fitted = fit_length_control(self.verdicts.wins[rows], self.extra[rows].astype(float), difficulties)
        return fitted, fitted.win_rate(difficulties)


def length_values(lengths: Int[np.ndarray, " n"]) -> dict[str, UnitValues]:
    """Return the outputs' lengths."""
    return {"average_length": UnitValues(lengths.astype(float), "mean length of the outputs in characters")}


def _values_of(judged: Judged) -> dict[str, UnitValues]:
    """Return what is one number per prompt."""
    return {
        "win_rate": UnitValues(100.0 * judged.verdicts.wins, _WIN_MEANING),
        "no_verdict": UnitValues(judged.verdicts.missing, "share of prompts without a verdict, which count as ties"),
        **length_values(judged.lengths),
    }


def _values_by_length(judged: Judged) -> dict[str, UnitValues]:
    """Return the win rate of the longer and of the shorter outputs, over prompts that differ from model to model."""
    wins, longer, shorter = 100.0 * judged.verdicts.wins, judged.extra > 0, judged.extra < 0
    return {
        "win_rate_when_longer": UnitValues(wins[longer], f"{_WIN_MEANING}, where the output is the longer one"),
        "win_rate_when_shorter": UnitValues(wins[shorter], f"{_WIN_MEANING}, where it is the shorter one"),
    }


def metrics_for(judged: Judged, seed: int) -> list[Metric]:
    """Return every number of a model: win rates, verdicts that are missing, lengths, and the judge's two orders.

    Those that rest on verdicts have no value where there is none: it would be 50 % of nothing.
    """
    win, *others = metrics_of(_values_of(judged), UNITS, seed)
    wins, orders = judged.verdicts.wins, judged.verdicts.orders
    error = Estimate(standard_error(wins), None, None, len(wins))
    controlled = statistic_interval(lambda rows: judged.fit(rows)[1], len(wins), REFITS, seed)
    by_order = {
        "order_agreement": UnitValues(orders.agree, "share of prompts judged alike in both orders"),
        "first_preferred": UnitValues(
            orders.first_preferred, "share of verdicts for the output shown first, over both orders: 0.5 without bias"
        ),
    }
    metrics = [
        win,
        Metric.of("standard_error", error, "standard error of win_rate in percentage points; has no interval itself"),
        Metric.of(_LENGTH_CONTROLLED, controlled, f"{_LC_MEANING}; bootstrap over prompts"),
        *metrics_of(_values_by_length(judged), UNITS, seed),
        *others,
        *metrics_of(by_order, UNITS, seed),
    ]
    kept = [metric.name for metric in metrics] if judged.heard else ("no_verdict", "average_length")
    nothing = {"value": None, "low": None, "high": None}
    return [each if each.name in kept else each.model_copy(update=nothing) for each in metrics]


def changes_for(judged: Judged, first: Judged, reference: str, seed: int) -> list[Change]:
    """Return the paired changes against the first model; none where one of the two has no verdict."""
    if not (judged.heard and first.heard):
        return []
    changes = changes_of(_values_of(judged), _values_of(first), reference, UNITS, seed)
    found = statistic_interval(
        lambda rows: judged.fit(rows)[1] - first.fit(rows)[1], len(judged.verdicts.wins), REFITS, seed
    )
    meaning = f"change of: {_LC_MEANING}; paired bootstrap over prompts"
    return [*changes[:1], Change.against(reference, _LENGTH_CONTROLLED, found, meaning), *changes[1:]]


def details_of(judged: Judged, cost: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the numbers are made of: counts, the fitted model, and what the judge was asked and cost."""
    wins = judged.verdicts.wins[~judged.verdicts.missing]
    return {
        "wins": int((wins > 0.5).sum()),
        "losses": int((wins < 0.5).sum()),
        "ties": int((wins == 0.5).sum()),
        "equal_outputs": judged.verdicts.equal,
        "no_verdict": judged.verdicts.reasons,
        "length_control": judged.fit()[0]._asdict(),
        "longer_outputs": float((judged.extra > 0).mean()),
        "orders_without_verdict": judged.verdicts.orders.missing,
        "judge": dict(cost),
        "verdicts_read": judged.verdicts.read,
    }


def notes_on(judged: Mapping[str, Judged], reference: str) -> list[str]:
    """Say how verdicts were read and what the numbers lack, missing verdicts first."""
    notes = [line for name, each in judged.items() for line in notes_on_reading(name, each.verdicts.read)]
    notes.append(f"win rates are against {reference}; they compare only with rates of the same judge and reference")
    if any(each.difficulties is None for each in judged.values()):
        notes.append(
            "length_controlled_win_rate lacks the instruction difficulties that AlpacaEval fits over its leaderboard; "
            "it orders models much as the published rate does, but with AlpacaEval 2's own verdicts it is off by one "
            "or two points instead of half a point; --difficulties names a file of them"
        )
    for name, each in judged.items():
        verdicts = each.verdicts
        if missing := int(verdicts.missing.sum()):
            why = ", ".join(f"{count} {reason}" for reason, count in verdicts.reasons.items())
            notes.append(
                f"{name}: no verdict on {missing} of {len(verdicts.missing)} prompts ({why}); ties in win_rate"
            )
        longer = float((each.extra > 0).mean())
        if follows_length(each):
            notes.append(
                f"{name}: the judge prefers the longer output almost always, whoever wrote it (win_rate_when_longer, "
                "win_rate_when_shorter); such verdicts say nothing of quality"
            )
        if not _ONE_SIDED <= longer <= 1.0 - _ONE_SIDED:
            notes.append(
                f"{name}: {100 * longer:.0f} % of the outputs are longer than the reference's, so its "
                "length-controlled rate extrapolates to lengths that were hardly seen"
            )
        if not len(verdicts.orders.agree):
            notes.append(f"{name}: position bias is not measured; no prompt has verdicts in both orders")
    return warnings_first(notes)


def follows_length(judged: Judged) -> bool:
    """Tell whether nearly all longer outputs win and nearly all shorter ones lose, over enough prompts of both kinds.

    One kind alone shows nothing: a weak model may lose everywhere, and be shorter everywhere.
    """
    longer, shorter = (100.0 * judged.verdicts.wins[rows] for rows in (judged.extra > 0, judged.extra < 0))
    if min(len(longer), len(shorter)) < _FEWEST:
        return False
    return bool(longer.mean() >= _FOLLOWS_LENGTH and shorter.mean() <= 100.0 - _FOLLOWS_LENGTH)


def characters(texts: Sequence[str]) -> Int[np.ndarray, " n"]:
    """Return the lengths of texts."""
    return np.array([len(text) for text in texts])
