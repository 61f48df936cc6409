"""Choose a learning rate on the validation pairs."""

from __future__ import annotations

__all__ = ()

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ropo.comparison.recipe import Criterion
from ropo.comparison.results import ChosenRate, Status, TriedRate
from ropo.core.intervals import Estimate, mean_interval, share_interval

_MEANINGS: dict[Criterion, str] = {
    "loss": "lowest mean DPO loss on the validation pairs, in nats",
    "accuracy": "highest share of validation pairs with a DPO margin above 0",
    "margin": "highest mean DPO margin on the validation pairs, in nats",
}


def tried_rate(rate: float, status: Status, metrics: Sequence[dict[str, Any]], criterion: Criterion) -> TriedRate:
    """Return what one learning rate reached, over the seeds that it was tried with.

    Args:
        rate: The rate.
        status: How its runs ended; the first that did not finish counts, as the seeds that survive flatter a rate.
        metrics: Of the `run.json` of each; without `held_out` there is no value.
        criterion: What counts.
    """
    held_out = [each["held_out"] for each in metrics if each.get("held_out")] if status == "finished" else []
    if not held_out or len(held_out) < len(metrics):
        return TriedRate(learning_rate=rate, status=status, value=None)
    found = _measure(np.array([each["margins"] for each in held_out], dtype=float), criterion)
    return TriedRate(learning_rate=rate, status=status, value=found.value, low=found.low, high=found.high)


def _measure(margins: Float[np.ndarray, "seeds pairs"], criterion: Criterion) -> Estimate:
    """Return the mean criterion of DPO margins with its interval over pairs, of which all seeds have the same."""
    if criterion == "accuracy":
        passed = margins > 0
        return share_interval(int(passed.sum()), passed.size) if len(passed) == 1 else mean_interval(passed.mean(0))
    return mean_interval((margins if criterion == "margin" else np.logaddexp(0.0, -margins)).mean(0))


def choose_rate(data: str, method: str, candidates: Sequence[TriedRate], criterion: Criterion) -> ChosenRate:
    """Choose the best rate; of equals the lowest, and the lowest of all where none finished."""
    sign = 1 if criterion == "loss" else -1
    known = [each for each in candidates if each.value is not None]
    ranked = sorted(known, key=lambda each: (sign * (each.value or 0.0), each.learning_rate))
    best = ranked[0] if ranked else min(candidates, key=lambda each: each.learning_rate)
    return ChosenRate(
        data=data, method=method, criterion=_MEANINGS[criterion], candidates=list(candidates), chosen=best.learning_rate
    )
