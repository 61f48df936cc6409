"""Methods compared where they gain equally much: what each pays for it, with a bootstrap over seeds and units."""

from __future__ import annotations

__all__ = ()

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from ropo.comparison.frontier.curves import (
    Draws,
    MethodPaths,
    best_gain,
    curves_of,
    least_cost,
    methods_of_paths,
    quantiles,
)
from ropo.comparison.frontier.quantities import COSTS, GAINS, QUANTITIES, series_of
from ropo.comparison.results import Bounds, EqualGain, RunPath

SHARES = (0.25, 0.5, 0.75, 1.0)


def equal_gains(paths: Sequence[RunPath], against: str | None, draws: Draws | None = None) -> list[EqualGain]:
    """Compare every method with the one that is called `against`, or with the first, at equal gains.

    The level is a share of the best gain that both reach, g = share * min(best of one, best of the other); each pays
    e(g) (`least_cost`). In every resample of seeds and of pairs, prompts and windows, drawn alike for both methods,
    level and costs are found anew, so that the interval knows that the best rate and the best place to stop are found
    on the same data. A least cost of noisy ones is a little too low, for both methods alike where they have equally
    many rates and checkpoints.

    Returns:
        One entry for each data set, other method, gain, cost and share; none where either quantity is lacking.
    """
    draws = draws or Draws()
    found: list[EqualGain] = []
    for data in dict.fromkeys(run.data for run in paths):
        methods = [each for each in methods_of_paths(paths, data) if each.rates]
        other = next((each for each in methods if against in (None, each.method)), None)
        for method in methods if other is not None else ():
            if other is None or method is other:
                continue
            for gain in GAINS:
                for cost in COSTS:
                    found += _compare(data, method, other, gain, cost, draws)
    return found


def _compare(data: str, method: MethodPaths, other: MethodPaths, gain: str, cost: str, draws: Draws) -> list[EqualGain]:
    curves, others = (list(curves_of(each, gain, cost, draws).values()) for each in (method, other))
    if not curves or not others:
        return []
    best = np.minimum(best_gain(curves), best_gain(others))
    if best[0] <= 0:  # no gain that both have, so nothing to compare at
        return []
    units = _units(method, gain, cost)
    found = []
    for share in SHARES:
        level = share * best
        values, costs = least_cost(curves, level), least_cost(others, level)
        known = np.isfinite(values) & np.isfinite(costs) & (best > 0)
        differences = values - costs
        found.append(
            EqualGain(
                data=data,
                method=method.method,
                against=other.method,
                gain=gain,
                cost=cost,
                share=share,
                level=float(level[0]),
                value=_bounds(values, known),
                other=_bounds(costs, known),
                difference=_bounds(differences, known),
                seeds=(len(method.seeds), len(other.seeds)),
                units=units,
                draws=(int(known[1:].sum()), len(known) - 1),
            )
        )
    return found


def _bounds(values: Float[np.ndarray, " draws"], known: np.ndarray) -> Bounds:
    """Return the estimate, the first draw, with the percentile interval of the others."""
    drawn = values[1:][known[1:]]
    low, high = quantiles(drawn) if len(drawn) > 1 else (None, None)
    return Bounds(value=float(values[0]) if known[0] else None, low=low, high=high)


def _units(method: MethodPaths, *names: str) -> dict[str, int]:
    """Count the units behind quantities."""
    counts: Mapping[str, int] = {}
    for runs in method.rates.values():
        for name in names:
            path = runs[0].path
            series = series_of(path, name) if path is not None else None
            if series is not None:
                counts = {**counts, QUANTITIES[name].unit: series.upper.shape[1]}
    return dict(counts)
