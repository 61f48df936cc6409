"""From one number per unit (a pair, a question, a prompt) to metrics, and to paired changes between models."""

from __future__ import annotations

__all__ = ()

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from ropo.core.intervals import (
    Comparison,
    Estimate,
    jackknife_interval,
    mean_interval,
    paired_difference,
    paired_shares,
    share_interval,
    statistic_interval,
)
from ropo.evaluation.results import Change, Metric


@dataclass(frozen=True)
class UnitValues:
    """One number per unit, from which a metric and its paired changes are computed.

    Args:
        values: Bool where the metric is a share, float where it is a mean.
        meaning: What the metric says, in which unit.
        used: The units that it is over, the same for every model; None for all.
        exponential: Whether the metric is exp(mean), as a perplexity is.
        whole: The metric itself where `values` are its jackknife's pseudo-values.
    """

    values: np.ndarray
    meaning: str
    used: Bool[np.ndarray, " n"] | None = None
    exponential: bool = False
    whole: float | None = None

    @property
    def kept(self) -> np.ndarray:
        """The values of the units that the metric is over."""
        return self.values if self.used is None else self.values[self.used]


def ratio_values(
    numerators: Float[np.ndarray, " n"], denominators: Float[np.ndarray, " n"], meaning: str
) -> UnitValues:
    """Read a ratio of two sums over units, such as unique over all n-grams, for the jackknife.

    Args:
        numerators: What each unit adds to the upper sum.
        denominators: What it adds to the lower sum, which must be above 0.
        meaning: What the ratio says.
    """
    upper, lower = numerators.sum(), denominators.sum()
    return jackknife_values(float(upper / lower), _divide(upper - numerators, lower - denominators), meaning)


def jackknife_values(whole: float, without: Float[np.ndarray, " n"], meaning: str) -> UnitValues:
    """Read a statistic of all units together.

    Args:
        whole: The statistic of all units.
        without: The statistic without each unit in turn; not finite where it is not defined then, and the metric then
            has no interval.
        meaning: What the statistic says.
    """
    units = len(without)
    return UnitValues(units * whole - (units - 1) * without, meaning, whole=whole)


def metrics_of(by_metric: Mapping[str, UnitValues], units: str, seed: int) -> list[Metric]:
    """Return the metrics of one model: a share with Wilson's interval, a mean or perplexity with its bootstrap."""
    return [Metric.of(name, *_estimate(measured, units, seed)) for name, measured in by_metric.items()]


def changes_of(
    by_metric: Mapping[str, UnitValues], first: Mapping[str, UnitValues], reference: str, units: str, seed: int
) -> list[Change]:
    """Return the paired changes, on the same units, of the metrics that both models have.

    Returns:
        One change per metric: of shares with McNemar's test, of means with a sign-flip test, of
        other statistics without one.
    """
    return [
        Change.against(reference, name, *_compare(by_metric[name], first[name], units, seed))
        for name in by_metric
        if name in first
    ]


def compare_models(
    names: Sequence[str], of_models: Sequence[Mapping[str, UnitValues]], units: str, seed: int
) -> list[tuple[list[Metric], list[Change]]]:
    """Return metrics of every model, and changes against the first of all others."""
    return [
        (metrics_of(each, units, seed), changes_of(each, of_models[0], names[0], units, seed) if number else [])
        for number, each in enumerate(of_models)
    ]


def _estimate(measured: UnitValues, units: str, seed: int) -> tuple[Estimate, str]:
    values = measured.kept
    if measured.whole is not None:
        return jackknife_interval(measured.whole, values), f"{measured.meaning}; jackknife over {units}"
    if values.dtype == bool:
        return share_interval(int(values.sum()), len(values)), f"{measured.meaning}; Wilson interval over {units}"
    found = mean_interval(values, seed)
    if measured.exponential:
        found = Estimate(_exp(found.value), _exp(found.low), _exp(found.high), found.count)
    return found, f"{measured.meaning}; bootstrap over {units}"


def _compare(measured: UnitValues, first: UnitValues, units: str, seed: int) -> tuple[Estimate, str]:
    values, others = measured.kept, first.kept
    meaning = f"change of: {measured.meaning}; paired"
    if measured.whole is not None and first.whole is not None:
        return jackknife_interval(measured.whole - first.whole, values - others), f"{meaning} jackknife over {units}"
    if values.dtype == bool and others.dtype == bool:
        return paired_shares(values, others), f"{meaning} interval of Agresti and Min over {units}"
    if measured.exponential:
        found = statistic_interval(
            lambda rows: float(np.exp(values[rows].mean()) - np.exp(others[rows].mean())), len(values), seed=seed
        )
        tested = paired_difference(values, others, seed)  # exp keeps the order: the perplexity moved as the loss did
        compared = Comparison(**vars(found), p_value=tested.p_value, test=tested.test)
        return compared, f"{meaning} bootstrap over {units}, test of the loss"
    return paired_difference(values, others, seed), f"{meaning} bootstrap over {units}"


def _exp(value: float | None) -> float | None:
    return None if value is None else float(np.exp(value))


def _divide(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    return np.divide(upper, lower, out=np.full(len(upper), np.nan), where=lower != 0)
