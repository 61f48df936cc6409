"""Choose a learning rate on the validation pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ropo.comparison.recipe import Criterion
from ropo.comparison.results import Candidate, Selection, Status
from ropo.core.intervals import Estimate, mean_interval, share_interval

MEANINGS: dict[Criterion, str] = {
    "loss": "lowest mean DPO loss on the validation pairs, in nats",
    "accuracy": "highest share of validation pairs with a DPO margin above 0",
    "margin": "highest mean DPO margin on the validation pairs, in nats",
}


def candidate(rate: float, status: Status, metrics: dict[str, Any], criterion: Criterion) -> Candidate:
    """Return what one learning rate reached.

    Args:
        rate: The rate.
        status: How its run ended.
        metrics: Of its `run.json`; without `held_out` there is no value.
        criterion: What counts.
    """
    held_out = metrics.get("held_out") if status == "finished" else None
    if held_out is None:
        return Candidate(learning_rate=rate, status=status, value=None)
    found = measure(np.array(held_out["margins"], dtype=float), criterion)
    return Candidate(learning_rate=rate, status=status, value=found.value, low=found.low, high=found.high)


def measure(margins: np.ndarray, criterion: Criterion) -> Estimate:
    """Return a criterion of DPO margins with its interval."""
    if criterion == "accuracy":
        return share_interval(int((margins > 0).sum()), len(margins))
    return mean_interval(margins if criterion == "margin" else np.logaddexp(0.0, -margins))


def select(data: str, method: str, candidates: Sequence[Candidate], criterion: Criterion) -> Selection:
    """Choose the best rate; of equals the lowest, and the lowest of all where none finished."""
    sign = 1 if criterion == "loss" else -1
    known = [each for each in candidates if each.value is not None]
    ranked = sorted(known, key=lambda each: (sign * (each.value or 0.0), each.learning_rate))
    best = ranked[0] if ranked else min(candidates, key=lambda each: each.learning_rate)
    return Selection(
        data=data, method=method, criterion=MEANINGS[criterion], candidates=list(candidates), chosen=best.learning_rate
    )
