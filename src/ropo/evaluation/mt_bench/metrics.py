"""From grades and comparisons to the suite's numbers, and what a reader has to know of them."""

from __future__ import annotations

__all__ = ()

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ropo.core.intervals import Estimate, share_interval, statistic_interval
from ropo.evaluation.mt_bench.grading import Grades
from ropo.evaluation.mt_bench.questions import TURNS, Question
from ropo.evaluation.results import Change, Metric
from ropo.evaluation.unit_values import UnitValues, metrics_of
from ropo.judging.judge import CUT, UNPARSABLE, notes_on_reading

SCORE, WIN_RATE = "score", "win_rate"
_MEANINGS = {
    SCORE: "mean grade from 1 to 10 over the verdicts that hold one",
    WIN_RATE: "percent of comparisons won against the first model, ties a half, over those with two verdicts",
}
_BOOTSTRAP = "bootstrap over questions"
_RESAMPLES = 2000


def metrics_for(name: str, grades: Grades, questions: Sequence[Question], seed: int) -> list[Metric]:
    """Return a score or win rate in all, by turn and by category, and the share of verdicts that held none."""
    values, meaning = _scaled(name, grades), _MEANINGS[name]
    metrics = [Metric.of(name, mean_of(values, seed), f"{meaning}; {_BOOTSTRAP}")]
    for turn in range(TURNS):
        found = mean_of(values[:, [turn]], seed)
        metrics.append(Metric.of(f"{name}_turn_{turn + 1}", found, f"{meaning}, turn {turn + 1}; {_BOOTSTRAP}"))
    for category in dict.fromkeys(question.category for question in questions):
        rows = np.array([question.category == category for question in questions])
        metrics.append(
            Metric.of(f"{name}_{category}", mean_of(values[rows], seed), f"{meaning}, {category}; {_BOOTSTRAP}")
        )
    return [*metrics, *_missing(name, grades), *_orders(grades, seed)]


def change_of(name: str, grades: Grades, first: Grades, reference: str, seed: int) -> Change:
    """Return the paired change against the first model, over the verdicts that both have."""
    found = mean_of(_scaled(name, grades) - _scaled(name, first), seed)
    meaning = f"change of: {_MEANINGS[name]}, where both have a verdict; paired {_BOOTSTRAP}"
    return Change.against(reference, name, found, meaning)


def mean_of(values: Float[np.ndarray, "questions turns"], seed: int) -> Estimate:
    """Return the mean over all numbers there are, resampling questions with both their turns.

    A question without any number is no unit.
    """
    kept = values[~np.isnan(values).all(axis=1)]
    if not len(kept):
        return Estimate(None, None, None, 0)
    return statistic_interval(lambda rows: float(np.nanmean(kept[rows])), len(kept), _RESAMPLES, seed)


def notes_on(name: str, grades: Grades) -> list[str]:
    """Say how verdicts were read, which are missing, and why, loudly where many are."""
    missing = sum(grades.reasons.values())
    read = notes_on_reading(name, grades.read)
    if not missing:
        return read
    why = ", ".join(f"{count} {reason}" for reason, count in grades.reasons.items())
    return [*read, f"{name}: no number in {missing} of {_asked(grades)} verdicts ({why})"]


def details_of(name: str, grades: Grades, questions: Sequence[Question]) -> dict[str, Any]:
    """Return the mean and the count of numbers for every category and turn, and why verdicts are missing."""
    values = _scaled(name, grades)
    table: dict[str, Any] = {}
    for category in dict.fromkeys(question.category for question in questions):
        rows = values[[question.category == category for question in questions]]
        table[category] = {f"turn_{turn + 1}": _cell(rows[:, turn]) for turn in range(TURNS)}
    details: dict[str, Any] = {f"{name}_by_category": table, f"{name}_missing": dict(grades.reasons)}
    if name == WIN_RATE:
        outcomes = {"wins": 1.0, "ties": 0.5, "losses": 0.0}
        details |= {word: int((grades.values == value).sum()) for word, value in outcomes.items()}
    return details


def _scaled(name: str, grades: Grades) -> Float[np.ndarray, "questions turns"]:
    return 100.0 * grades.values if name == WIN_RATE else grades.values


def _cell(values: Float[np.ndarray, " n"]) -> Mapping[str, float | int | None]:
    known = values[~np.isnan(values)]
    return {"mean": float(known.mean()) if len(known) else None, "count": len(known)}


def _missing(name: str, grades: Grades) -> list[Metric]:
    asked, unparsable = _asked(grades), sum(grades.reasons.get(reason, 0) for reason in (UNPARSABLE, CUT))
    unanswered = sum(grades.reasons.values()) - unparsable
    wilson = "Wilson interval over verdicts"
    return [
        Metric.of(
            f"{name}_unparsable", share_interval(unparsable, asked), f"share of verdicts without a number; {wilson}"
        ),
        Metric.of(
            f"{name}_unanswered", share_interval(unanswered, asked), f"share of verdicts that never came; {wilson}"
        ),
    ]


def _orders(grades: Grades, seed: int) -> list[Metric]:
    if grades.orders is None:
        return []
    by_order = {
        "order_agreement": UnitValues(grades.orders.agree, "share of comparisons judged alike in both orders"),
        "first_preferred": UnitValues(
            grades.orders.first_preferred, "share of verdicts for the answer shown first: 0.5 without bias"
        ),
    }
    return metrics_of(by_order, "comparisons", seed)


def _asked(grades: Grades) -> int:
    return grades.values.size * (1 if grades.orders is None else 2)
