"""What the seeds of a method say together, and which method is best in a column, without saying more than they do."""

from __future__ import annotations

__all__ = ["MethodRuns", "best_of", "methods_of", "metrics_of_runs", "over_seeds"]

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy import stats

from ropo.comparison.recipe import REFERENCE
from ropo.comparison.results import ComparisonResult, DataSuite, RunResult
from ropo.core.intervals import Estimate
from ropo.evaluation.results import Metric


@dataclass(frozen=True)
class MethodRuns:
    """All runs of one method on one data set, one per seed."""

    method: str
    runs: tuple[RunResult, ...]

    @property
    def finished(self) -> tuple[RunResult, ...]:
        """The runs that have numbers."""
        return tuple(run for run in self.runs if run.status == "finished")

    @property
    def is_reference(self) -> bool:
        """Whether it is the untrained model."""
        return self.method == REFERENCE

    @property
    def complete(self) -> bool:
        """Whether every seed finished: a mean over those that survived flatters a method."""
        return bool(self.runs) and len(self.finished) == len(self.runs)


def methods_of(result: ComparisonResult, data: str) -> list[MethodRuns]:
    """Return the methods of a data set in the order of their first runs."""
    grouped: dict[str, list[RunResult]] = {}
    for run in result.runs:
        if run.data == data:
            grouped.setdefault(run.method, []).append(run)
    return [MethodRuns(method, tuple(runs)) for method, runs in grouped.items()]


def metrics_of_runs(suite: DataSuite, runs: Sequence[RunResult], name: str, change: bool = False) -> dict[str, Metric]:
    """Return a metric of every run that has it, or its change from the untrained model, by the run's name.

    A change from another run is none of these: an evaluation that named no untrained model, or measured against it as
    `--against_first` does, has its changes from the first run.
    """
    models = {model.name: model for model in suite.result.models}
    untrained = f"{suite.data}/{REFERENCE}"
    found: dict[str, Metric] = {}
    for run in runs:
        model = models.get(run.name)
        changes = [] if model is None else [each for each in model.changes if each.reference == untrained]
        numbers: Sequence[Metric] = () if model is None else changes if change else model.metrics
        metric = next((metric for metric in numbers if metric.name == name), None)
        if metric is not None:
            found[run.name] = metric
    return found


def over_seeds(metrics: Sequence[Metric]) -> Estimate:
    """Return the mean over seeds, with an interval that knows both sources of chance.

    With S seeds of values v_s, whose intervals over units (pairs, prompts) reach from l_s to h_s, the ends are
    mean - sqrt(mean(v_s - l_s)^2 + (t s / sqrt(S))^2) and likewise above: seeds are measured on the same units, so
    their unit errors are taken as one and the same, not as shrinking with S; s is the standard deviation over seeds
    and t the 97.5 % quantile of Student's distribution with S - 1 degrees of freedom. A single seed keeps its interval,
    which then says nothing of other seeds.

    Args:
        metrics: The same metric of every seed; those without a value are left out.

    Returns:
        The estimate with the number of seeds as its count; without an interval where a seed has none.
    """
    known = [metric for metric in metrics if metric.value is not None]
    values = [metric.value for metric in known if metric.value is not None]
    if not values:
        return Estimate(None, None, None, 0)
    centre = fmean(values)
    below = [metric.value - metric.low for metric in known if metric.value is not None and metric.low is not None]
    above = [metric.high - metric.value for metric in known if metric.value is not None and metric.high is not None]
    if len(below) < len(values) or len(above) < len(values):
        return Estimate(centre, None, None, len(values))
    if len(values) == 1:
        return Estimate(centre, known[0].low, known[0].high, 1)
    spread = float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return Estimate(
        centre, centre - math.hypot(fmean(below), spread), centre + math.hypot(fmean(above), spread), len(values)
    )


def best_of(column: Mapping[str, Estimate], better: int) -> tuple[set[str], set[str]]:
    """Say which methods have the best mean, and which of the others cannot be told from them by their intervals.

    Args:
        column: Estimates by method.
        better: 1 where more is better, -1 where less is; 0 where neither is, and then nothing is best.

    Returns:
        The best (several if equal), and those whose interval meets a best one's or is not known.
    """
    known = {name: found.value for name, found in column.items() if found.value is not None}
    if not better or len(known) < 2:
        return set(), set()
    top = max(better * value for value in known.values())
    best = {name for name, value in known.items() if better * value == top}
    alike = {name for name in known if name not in best and any(_meet(column[name], column[one]) for one in best)}
    return best, alike


def _meet(one: Estimate, other: Estimate) -> bool:
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return True
    return one.low <= other.high and other.low <= one.high
