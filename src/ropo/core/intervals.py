"""Intervals and paired tests: how sure a number is, and whether two models differ.

Every interval has a level of 95 %. Bootstraps resample the units (prompts, pairs, questions), never parts of one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from ropo.core.bootstrap import LEVEL, RESAMPLES, bootstrap_interval, bootstrap_rows

_QUANTILE = float(stats.norm.ppf((1 + LEVEL) / 2))


@dataclass(frozen=True)
class Estimate:
    """Hold a value, the ends of its interval (None where the data give none), and the number of units."""

    value: float | None
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class Comparison(Estimate):
    """Hold the estimate of a paired difference, with the two-sided p-value of a test where one was made."""

    p_value: float | None = None
    test: str | None = None


def mean_interval(values: Float[np.ndarray, " n"], seed: int = 0) -> Estimate:
    """Return a mean with its percentile bootstrap interval; all None for no value, no interval for one value."""
    if len(values) < 2:
        return Estimate(float(values[0]) if len(values) else None, None, None, len(values))
    low, high = bootstrap_interval(values, seed=seed)
    return Estimate(float(values.mean()), low, high, len(values))


def share_interval(successes: int, count: int) -> Estimate:
    """Return a share with Wilson's score interval, which stays honest near 0 and 1 and for few units.

    Wilson 1927 (doi 10.1080/01621459.1927.10502953), without continuity correction, by `scipy.stats.binomtest`.

    Args:
        successes: Units that count.
        count: All units.

    Returns:
        The share; all None for no unit.
    """
    if not count:
        return Estimate(None, None, None, 0)
    interval = stats.binomtest(successes, count).proportion_ci(LEVEL, method="wilson")
    return Estimate(successes / count, float(interval.low), float(interval.high), count)


def statistic_interval(
    statistic: Callable[[np.ndarray], float | None], units: int, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Return a statistic that is no mean, with its percentile bootstrap interval over units.

    Args:
        statistic: Takes the numbers of the drawn units (some drawn twice) and returns its value on them, or None where
            they define none; such resamples are left out.
        units: Number of units.
        resamples: How often to draw.
        seed: Seed of the draws.

    Returns:
        The statistic on all units once, and its interval.

    Cost: `resamples` calls of `statistic`.
    """
    value = statistic(np.arange(units))
    if value is None or units < 2:
        return Estimate(value, None, None, units)
    rows = bootstrap_rows(units, resamples, np.random.default_rng(seed))
    drawn = [found for row in rows if (found := statistic(row)) is not None]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(value), float(low), float(high), units)


def jackknife_interval(value: float, pseudo_values: Float[np.ndarray, " n"]) -> Estimate:
    """Return a statistic with the normal interval of its jackknife: value +- 1.96 sd(pseudo-values) / sqrt(n).

    For statistics that count what is distinct, where the bootstrap, which draws units twice, is biased. Unit i has the
    pseudo-value n * value - (n - 1) * (value without unit i). On average it is a little too wide, never too narrow
    (Efron and Stein 1981, doi 10.1214/aos/1176345462).

    Args:
        value: The statistic of all units.
        pseudo_values: One a unit.

    Returns:
        The value; no interval for fewer than two units, or where a pseudo-value is not finite.
    """
    units = len(pseudo_values)
    if units < 2 or not np.isfinite(pseudo_values).all():
        return Estimate(value, None, None, units)
    half = float(_QUANTILE * pseudo_values.std(ddof=1) / np.sqrt(units))
    return Estimate(value, value - half, value + half, units)


def paired_difference(values: Float[np.ndarray, " n"], reference: Float[np.ndarray, " n"], seed: int = 0) -> Comparison:
    """Return the mean of values - reference, unit by unit, with its paired bootstrap interval and a sign-flip test.

    The test asks how often the mean is as far from 0 when each unit's difference keeps its size and gets a random sign
    (Fisher 1935, The Design of Experiments, section 21), by `scipy.stats.permutation_test`: over all signs where there
    are at most 9,999 combinations, else over 9,999 draws, so that p is at least 2e-4.

    Args:
        values: One number a unit.
        reference: The reference's number on the same units, in the same order.
        seed: Seed of the resampling.

    Returns:
        The difference with interval and two-sided p-value; p = 1 where the two differ nowhere; no test below two units.
    """
    differences = values.astype(float) - reference
    found = mean_interval(differences, seed)
    if len(differences) < 2:
        return Comparison(found.value, found.low, found.high, found.count)
    tested = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=9999, batch=1000, rng=seed
    )
    return Comparison(found.value, found.low, found.high, found.count, float(tested.pvalue), "sign-flip")


def paired_shares(passed: Bool[np.ndarray, " n"], reference: Bool[np.ndarray, " n"]) -> Comparison:
    """Return the difference of two shares on the same units, with Agresti and Min's interval and McNemar's exact test.

    With b units that only the model passes, c that only the reference passes, and half a unit added to each of the four
    outcomes, the interval is d +- 1.96 sqrt((b + c) - (b - c)^2 / n) / n around d = (b - c) / n (Agresti and Min 2005,
    doi 10.1002/sim.1781). The bootstrap would claim certainty where few units differ. The test takes b as drawn from
    Binomial(b + c, 1/2) (McNemar 1947, doi 10.1007/BF02295996).

    Args:
        passed: Which units the model passes.
        reference: Which of them the reference passes.

    Returns:
        The difference itself, with interval and two-sided p-value; p = 1 where the two differ nowhere.
    """
    gained, lost = int((passed & ~reference).sum()), int((~passed & reference).sum())
    units = len(passed)
    if not units:
        return Comparison(None, None, None, 0)
    b, c, n = gained + 0.5, lost + 0.5, units + 2
    centre, half = (b - c) / n, _QUANTILE * np.sqrt((b + c) - (b - c) ** 2 / n) / n
    p_value = float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    low, high = max(-1.0, float(centre - half)), min(1.0, float(centre + half))
    return Comparison((gained - lost) / units, low, high, units, p_value, "mcnemar")
