"""From one number a unit (a pair, a question, a prompt) to metrics, and to paired changes between models."""

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
class Reading:
    """One number a unit, from which a metric and its paired changes are computed.

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


def ratio_reading(numerators: Float[np.ndarray, " n"], denominators: Float[np.ndarray, " n"], meaning: str) -> Reading:
    """Read a ratio of two sums over units, such as unique over all n-grams, for the jackknife.

    Args:
        numerators: What each unit adds to the upper sum.
        denominators: What it adds to the lower sum, which must be above 0.
        meaning: What the ratio says.
    """
    upper, lower = numerators.sum(), denominators.sum()
    return jackknife_reading(float(upper / lower), _divide(upper - numerators, lower - denominators), meaning)


def jackknife_reading(whole: float, without: Float[np.ndarray, " n"], meaning: str) -> Reading:
    """Read a statistic of all units together.

    Args:
        whole: The statistic of all units.
        without: The statistic without each unit in turn; not finite where it is not defined then, and the metric then
            has no interval.
        meaning: What the statistic says.
    """
    units = len(without)
    return Reading(units * whole - (units - 1) * without, meaning, whole=whole)


def metrics_of(readings: Mapping[str, Reading], units: str, seed: int) -> list[Metric]:
    """Return the metrics of one model: a share with Wilson's interval, a mean or perplexity with its bootstrap.

    Args:
        readings: By the names of the metrics.
        units: What a unit is called, in the plural.
        seed: Seed of the resampling.
    """
    return [Metric.of(name, *_estimate(reading, units, seed)) for name, reading in readings.items()]


def changes_of(
    readings: Mapping[str, Reading], first: Mapping[str, Reading], reference: str, units: str, seed: int
) -> list[Change]:
    """Return the paired changes of the metrics that both models have.

    Args:
        readings: The model's.
        first: The reference's, on the same units.
        reference: Its name.
        units: What a unit is called, in the plural.
        seed: Seed of the resampling.

    Returns:
        One change a metric: of shares with McNemar's test, of means with a sign-flip test, of
        other statistics without one.
    """
    return [
        Change.against(reference, name, *_compare(readings[name], first[name], units, seed))
        for name in readings
        if name in first
    ]


def compare_models(
    names: Sequence[str], readings: Sequence[Mapping[str, Reading]], units: str, seed: int
) -> list[tuple[list[Metric], list[Change]]]:
    """Return metrics of every model, and changes against the first of all others."""
    return [
        (metrics_of(each, units, seed), changes_of(each, readings[0], names[0], units, seed) if number else [])
        for number, each in enumerate(readings)
    ]


def _estimate(reading: Reading, units: str, seed: int) -> tuple[Estimate, str]:
    values = reading.kept
    if reading.whole is not None:
        return jackknife_interval(reading.whole, values), f"{reading.meaning}; jackknife over {units}"
    if values.dtype == bool:
        return share_interval(int(values.sum()), len(values)), f"{reading.meaning}; Wilson interval over {units}"
    found = mean_interval(values, seed)
    if reading.exponential:
        found = Estimate(_exp(found.value), _exp(found.low), _exp(found.high), found.count)
    return found, f"{reading.meaning}; bootstrap over {units}"


def _compare(reading: Reading, first: Reading, units: str, seed: int) -> tuple[Comparison, str]:
    values, others = reading.kept, first.kept
    meaning = f"change of: {reading.meaning}; paired"
    if reading.whole is not None and first.whole is not None:
        found = jackknife_interval(reading.whole - first.whole, values - others)
        return _untested(found), f"{meaning} jackknife over {units}"
    if values.dtype == bool and others.dtype == bool:
        return paired_shares(values, others), f"{meaning} interval of Agresti and Min over {units}"
    if reading.exponential:
        found = statistic_interval(
            lambda rows: float(np.exp(values[rows].mean()) - np.exp(others[rows].mean())), len(values), seed=seed
        )
        tested = paired_difference(values, others, seed)  # exp keeps the order: the perplexity moved as the loss did
        compared = Comparison(found.value, found.low, found.high, found.count, tested.p_value, tested.test)
        return compared, f"{meaning} bootstrap over {units}, test of the loss"
    return paired_difference(values, others, seed), f"{meaning} bootstrap over {units}"


def _exp(value: float | None) -> float | None:
    return None if value is None else float(np.exp(value))


def _divide(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    return np.divide(upper, lower, out=np.full(len(upper), np.nan), where=lower != 0)


def _untested(found: Estimate) -> Comparison:
    return Comparison(found.value, found.low, found.high, found.count)
