"""The least cost of a gain: what the best of a method's runs, stopped at the best place, pays for it."""

from __future__ import annotations

__all__ = ()

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

# Gain and cost of a run's points under each draw, (draws, points) each, in the order of the steps.
Curve = tuple[Float[np.ndarray, "draws _"], Float[np.ndarray, "draws _"]]


def least_cost(curves: Sequence[Curve], level: Float[np.ndarray, " draws"]) -> Float[np.ndarray, " draws"]:
    """Return the least cost at which a method gains at least a level.

        e(g) = min { cost(x) : x on one of the method's paths, gain(x) >= g }

    A path is the polygon through its points, the reference at (0, 0) among them: between two checkpoints gain and cost
    are interpolated linearly along the steps. e never falls as g grows: more gain at less cost is taken for less gain.

    Args:
        curves: The method's paths, one a rate, each the mean over its seeds.
        level: The gain, draw by draw.

    Returns:
        The least cost; NaN where no path gains as much.

    Cost: one pass over the points for all draws at once.
    """
    wanted = level[:, None]
    found = []
    for gain, cost in curves:
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append(np.where(gain >= wanted, cost, np.inf))
            before, after = gain[:, :-1], gain[:, 1:]
            crosses = (before >= wanted) != (after >= wanted)
            part = (wanted - before) / (after - before)
            between = cost[:, :-1] + part * (cost[:, 1:] - cost[:, :-1])
        found.append(np.where(crosses, between, np.inf))
    if not found:
        return np.full(len(level), np.nan)
    least = np.concatenate(found, axis=1).min(axis=1)
    return np.where(np.isfinite(least), least, np.nan)


def best_gain(curves: Sequence[Curve]) -> Float[np.ndarray, " draws"]:
    """Return the largest gain on any of a method's paths, at least 0, where all begin."""
    return np.concatenate([np.zeros((len(curves[0][0]), 1)), *(gain for gain, _ in curves)], axis=1).max(axis=1)
