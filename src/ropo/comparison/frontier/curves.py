"""A method's paths of gain and cost, under resamples of units and seeds that all runs of a data set share."""

from __future__ import annotations

__all__ = ["MethodPaths", "methods_of_paths"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from ropo.comparison.frontier.quantities import QUANTITIES, series_of
from ropo.comparison.results import RunPath
from ropo.core.intervals import LEVEL

# Gain and cost of a run's points under each draw, (draws, points) each, in the order of the steps.
Curve = tuple[Float[np.ndarray, "draws _"], Float[np.ndarray, "draws _"]]
_RESAMPLES = 2000


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


@dataclass
class Draws:
    """How often each unit and each seed is drawn; the first draw takes each once, and is the estimate itself.

    Units of one kind are drawn once for all runs, which are measured on the same ones, and seeds once for all methods,
    which share data order and split by them: so what two runs have in common cancels from their difference.

    Args:
        resamples: Draws beside the first.
        seed: Seed of the draws.
    """

    resamples: int = _RESAMPLES
    seed: int = 0
    _drawn: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)

    def weights(self, kind: str, count: int) -> Float[np.ndarray, "draws units"]:
        """Return how often each of `count` units of a kind (`pairs`, `prompts`, `windows`, `seeds`) is drawn."""
        key = (kind, count)
        if key not in self._drawn:
            name = int.from_bytes(kind.encode(), "big")
            generator = np.random.default_rng([self.seed, name, count])
            drawn = generator.multinomial(count, np.full(count, 1.0 / count), size=self.resamples)
            self._drawn[key] = np.concatenate([np.ones((1, count)), drawn.astype(float)])
        return self._drawn[key]


@dataclass(frozen=True)
class MethodPaths:
    """The runs of one method on one data set by rate, of the rates all of whose seeds were measured.

    Attributes:
        method: The method's label.
        rates: Its runs by rate, each in the order of the seeds.
        lost: Rates that are left out, as a run of theirs did not finish or was not measured.
    """

    method: str
    rates: Mapping[float, Sequence[RunPath]]
    lost: tuple[float, ...]

    @property
    def seeds(self) -> list[int]:
        """The seeds that any rate has."""
        return sorted({run.seed for runs in self.rates.values() for run in runs})


def methods_of_paths(paths: Sequence[RunPath], data: str) -> list[MethodPaths]:
    """Return the methods of a data set in the order of their first runs."""
    grouped: dict[str, dict[float, list[RunPath]]] = {}
    for run in paths:
        if run.data == data:
            grouped.setdefault(run.method, {}).setdefault(run.learning_rate, []).append(run)
    return [
        MethodPaths(
            method,
            {rate: runs for rate, runs in sorted(rates.items()) if all(run.path for run in runs)},
            tuple(sorted(rate for rate, runs in rates.items() if not all(run.path for run in runs))),
        )
        for method, rates in grouped.items()
    ]


def curves_of(method: MethodPaths, gain: str, cost: str, draws: Draws) -> dict[float, Curve]:
    """Return gain and cost along the path of each rate, the mean over its seeds, at the steps where all have both.

    A seed may end before the others, by `stop_at_kl` or a warning: a mean beyond its last step would be of other seeds.

    Returns:
        Curves by rate; without those that lack either quantity.
    """
    found = {}
    for rate, runs in method.rates.items():
        steps = common_steps(runs, gain, cost)
        if len(steps) < 2:
            continue
        both = [_curve(run, steps, gain, cost, draws) for run in runs]
        weights = draws.weights("seeds", len(both))  # (draws, seeds)
        total = weights.sum(axis=1)[:, None]
        means = (
            sum(weights[:, number, None] * curve[side] for number, curve in enumerate(both)) / total for side in (0, 1)
        )
        found[rate] = (next(means), next(means))
    return found


def common_steps(runs: Sequence[RunPath], *names: str) -> list[int]:
    """Return the steps at which all runs have all of these quantities."""
    series = [series_of(run.path, name) for run in runs if run.path is not None for name in names]
    steps = [set(each.steps) if each is not None else set() for each in series]
    return sorted(set.intersection(*steps))


def quantiles(values: Float[np.ndarray, " draws"]) -> tuple[float, float]:
    """Return the ends of the percentile interval."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _curve(run: RunPath, steps: Sequence[int], gain: str, cost: str, draws: Draws) -> Curve:
    assert run.path is not None
    sides = []
    for name in (gain, cost):
        series = series_of(run.path, name)
        assert series is not None
        weights = draws.weights(QUANTITIES[name].unit, series.upper.shape[1])
        columns = [series.steps.index(step) for step in steps]
        sides.append(series.means(weights)[:, columns])
    return sides[0], sides[1]
