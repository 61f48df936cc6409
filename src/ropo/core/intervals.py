"""Intervals and tests: how sure a number is, and whether two models differ.

Every interval has a level of 95 %. Bootstraps are percentile bootstraps (Efron 1979, doi 10.1214/aos/1176344552); they
resample the units (prompts, pairs, questions), never parts of one.
"""

from __future__ import annotations

__all__ = [
    "LEVEL",
    "Comparison",
    "Estimate",
    "bootstrap_interval",
    "chance_of_rise",
    "jackknife_interval",
    "mean_interval",
    "paired_difference",
    "paired_shares",
    "share_interval",
    "statistic_interval",
]

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

LEVEL = 0.95
RESAMPLES = 10_000
_DRAWS = 9_999  # of signs; all combinations are tried where there are no more
_BATCH = 1_000_000  # drawn numbers held at once
_QUANTILE = float(stats.norm.ppf((1 + LEVEL) / 2))


@dataclass(frozen=True)
class Estimate:
    """A value, the ends of its interval (None where the data give none), and the number of units."""

    value: float | None
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class Comparison(Estimate):
    """The estimate of a paired difference, with the two-sided p-value of a test where one was made."""

    p_value: float | None = None
    test: str | None = None


def mean_interval(values: Float[np.ndarray, " n"], seed: int = 0) -> Estimate:
    """Return a mean with its percentile bootstrap interval; all None for no value, no interval for one value."""
    if len(values) < 2:
        return Estimate(float(values[0]) if len(values) else None, None, None, len(values))
    low, high = bootstrap_interval(values, seed=seed)
    return Estimate(float(values.mean()), low, high, len(values))


def bootstrap_interval(values: Float[np.ndarray, " n"], level: float = LEVEL, seed: int = 0) -> tuple[float, float]:
    """Return the bootstrap interval of a mean, by `scipy.stats.bootstrap`.

    Args:
        values: Independent measurements, at least one.
        level: Probability that the interval is to cover the mean.
        seed: Seed of the resampling.

    Returns:
        Lower and upper end; the value itself where there is one.

    Cost: 10,000 resamples of `values`; a second for ten thousand values.
    """
    if len(values) == 1:
        return float(values[0]), float(values[0])
    batch = max(1, _BATCH // len(values))
    found = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=batch,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


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
    generator = np.random.default_rng(seed)
    rows = (generator.integers(units, size=units) for _ in range(resamples))
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
        values: One number per unit.
        reference: The reference's number on the same units, in the same order.
        seed: Seed of the resampling.

    Returns:
        The difference with interval and two-sided p-value; p = 1 where the two differ nowhere; no test below two units.
    """
    differences = values.astype(float) - reference
    found = vars(mean_interval(differences, seed))
    if len(differences) < 2:
        return Comparison(**found)
    return Comparison(**found, p_value=_sign_flip(differences, seed), test="sign-flip")


def chance_of_rise(changes: Float[np.ndarray, " n"], seed: int = 0) -> float:
    """Compute how often a mean change would come out this high by chance: the one-sided sign-flip test.

    Where the model did not change, a unit's two measurements could as well have changed places, so its difference has
    either sign with equal probability, whatever its distribution. It needs no normal distribution and is exact for few
    units; one large difference among many small ones stays insignificant.

    Args:
        changes: New minus old measurement of each unit (prompt, pair, piece of text).
        seed: Seed of the draws.

    Returns:
        The p-value of `paired_difference`'s test, one-sided: at least 2^-n, and at least 1e-4 where signs are drawn; 1
        where nothing changed, or there is no unit.
    """
    if not np.any(changes):
        return 1.0
    if len(changes) == 1:
        return 0.5 if changes[0] > 0 else 1.0
    return _sign_flip(changes, seed, "greater")


def _sign_flip(changes: Float[np.ndarray, " n"], seed: int, alternative: str = "two-sided") -> float:
    """Return the p-value of the sign-flip test of a mean, over all signs or drawn ones."""
    tested = stats.permutation_test(
        (changes,),
        np.mean,
        permutation_type="samples",
        alternative=alternative,
        n_resamples=_DRAWS,
        batch=1000,
        rng=np.random.default_rng(seed),
    )
    return float(tested.pvalue)


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
