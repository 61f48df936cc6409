"""From lm-eval's results to one number per question, so that models can be compared question by question."""

from __future__ import annotations

__all__ = ()

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from ropo.diagnostics.measure import Measure
from ropo.evaluation.unit_values import UnitValues, ratio_values

_Kind = Literal["mean", "perplexity", "ratio", "alone"]


class Outcome(Measure):
    """One metric of one task as lm-eval computed it, and the questions' part in it.

    Attributes:
        value: lm-eval's number.
        kind: How it follows from the questions: their mean, exp(-mean), the ratio of two sums, or unknown.
        units: One number per question; for a ratio its numerators.
        weights: The denominators of a ratio.
        count: Number of questions.
    """

    value: float
    kind: _Kind
    units: list[float]
    weights: list[float]
    count: int

    def unit_values(self, meaning: str) -> UnitValues | None:
        """Return the number of each question; None where the metric does not follow from them."""
        units = np.array(self.units)
        if self.kind == "mean":
            return UnitValues(units.astype(bool) if set(self.units) <= {0.0, 1.0} else units, meaning)
        if self.kind == "perplexity":
            return UnitValues(-units, meaning, exponential=True)
        if self.kind == "ratio":
            return ratio_values(units, np.array(self.weights), meaning)
        return None


def outcomes_of(results: Mapping[str, Any]) -> dict[str, Outcome]:
    """Return the outcomes of lm-eval's results by `task/metric`, or `task/metric/filter` for a filter with a name.

    A group (such as `mmlu`) is reported as a whole, its parts are not; its questions are those of its tasks.

    Args:
        results: What `lm_eval.simple_evaluate` returns, with samples.

    Returns:
        The outcomes of groups that are in no other group, and of tasks that are in none.
    """
    parts: Mapping[str, Sequence[str]] = results.get("group_subtasks", {})
    inside = {name for group, children in parts.items() for name in children if name != group}
    outcomes: dict[str, Outcome] = {}
    for name, numbers in results["results"].items():
        if name in inside:
            continue
        samples = [sample for task in _tasks(name, parts) for sample in results["samples"].get(task, [])]
        for key, value in numbers.items():
            metric, comma, kind = key.partition(",")
            if comma and not metric.endswith("_stderr") and isinstance(value, int | float) and math.isfinite(value):
                units = [sample[metric] for sample in samples if sample["filter"] == kind and metric in sample]
                label = f"{name}/{metric}" + ("" if kind == "none" else f"/{kind}")
                outcomes[label] = outcome_of(float(value), units)
    return outcomes


def outcome_of(value: float, units: Sequence[Any]) -> Outcome:
    """Find out how a metric follows from the questions, by trying; what is not found has no interval."""
    if units and all(isinstance(unit, int | float) for unit in units):
        numbers = [float(unit) for unit in units]
        mean = sum(numbers) / len(numbers)
        if math.isclose(mean, value, rel_tol=1e-6, abs_tol=1e-9):
            return Outcome(value=value, kind="mean", units=numbers, weights=[], count=len(numbers))
        if mean < 0 and math.isclose(math.exp(-mean), value, rel_tol=1e-6):
            return Outcome(value=value, kind="perplexity", units=numbers, weights=[], count=len(numbers))
    if units and all(isinstance(unit, list) for unit in units):  # several verdicts a question, as in IFEval
        sums, weights = [float(sum(unit)) for unit in units], [float(len(unit)) for unit in units]
        if sum(weights) and math.isclose(sum(sums) / sum(weights), value, rel_tol=1e-6, abs_tol=1e-9):
            return Outcome(value=value, kind="ratio", units=sums, weights=weights, count=len(sums))
    return Outcome(value=value, kind="alone", units=[], weights=[], count=len(units))


def _tasks(name: str, parts: Mapping[str, Sequence[str]]) -> list[str]:
    children = [child for child in parts.get(name, ()) if child != name]
    return [task for child in children for task in _tasks(child, parts)] if children else [name]
