"""What a figure of a frontier shows: each run's path, the mean of a rate's seeds, and each method's least costs."""

from __future__ import annotations

__all__ = ["Envelope", "MethodLines", "PathLine", "frame_of", "lines_of"]

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ropo.comparison.frontier.curves import Draws, MethodPaths, best_gain, common_steps, curves_of, least_cost

_LEVELS = 61  # gains at which an envelope is drawn


@dataclass(frozen=True)
class PathLine:
    """One path as it is drawn.

    Attributes:
        rate: The learning rate.
        seed: The run's seed; None for the mean over all seeds of the rate.
        steps: Optimizer steps of the points; the first is the reference's, 0.
        gains: Gain at each.
        costs: Cost at each.
    """

    rate: float
    seed: int | None
    steps: tuple[int, ...]
    gains: tuple[float, ...]
    costs: tuple[float, ...]


@dataclass(frozen=True)
class Envelope:
    """A method's least cost of each gain, with the lowest and the highest of its seeds where there are several."""

    gains: tuple[float, ...]
    costs: tuple[float, ...]
    band: tuple[tuple[float, float, float], ...]  # gain, lowest, highest


@dataclass(frozen=True)
class MethodLines:
    """What is drawn of one method; several seeds have a line each and their mean."""

    method: str
    lines: tuple[PathLine, ...]
    envelope: Envelope | None


def frame_of(drawn: Sequence[MethodLines]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the ranges of gain and cost that show what the methods reach; what broke leads out of them.

    A fifth of the best gain below 0, and the least costs with as much room again above and below.
    """
    best = max(max(line.gains) for each in drawn for line in each.lines)
    worst = min(min(line.gains) for each in drawn for line in each.lines)
    costs = [cost for each in drawn if each.envelope for cost in each.envelope.costs if np.isfinite(cost)]
    costs += [end for each in drawn if each.envelope for _, *band in each.envelope.band for end in band]
    every = [cost for each in drawn for line in each.lines for cost in line.costs]
    low, high = min(0.0, *costs), max(0.0, *costs)
    room = (high - low) or (max(every) - min(every)) or 1.0
    gains = (max(worst, -0.2 * best), best) if best > 0 else (worst, 0.0)
    bottom, top = max(min(0.0, *every), low - room), min(max(0.0, *every), high + room)
    return _padded(*gains), _padded(bottom, top)


def _padded(low: float, high: float) -> tuple[float, float]:
    """Return a range with some room at either end; one without width gets some."""
    edge = 0.04 * (high - low) or 1.0
    return low - edge, high + edge


def lines_of(method: MethodPaths, gain: str, cost: str) -> MethodLines:
    """Return what is drawn of a method on the axes of a gain and a cost."""
    lines: list[PathLine] = []
    several = len(method.seeds) > 1
    for rate, runs in method.rates.items():
        for run in runs:
            alone = replace(method, rates={rate: [run]})
            lines += _lines(alone, rate, run.seed, gain, cost)
        if several:
            lines += _lines(replace(method, rates={rate: runs}), rate, None, gain, cost)
    return MethodLines(method.method, tuple(lines), _envelope(method, gain, cost) if lines else None)


def _lines(method: MethodPaths, rate: float, seed: int | None, gain: str, cost: str) -> list[PathLine]:
    curves = curves_of(method, gain, cost, Draws(resamples=0))
    steps = tuple(common_steps(method.rates[rate], gain, cost))
    return [
        PathLine(rate, seed, steps, tuple(map(float, gains[0])), tuple(map(float, costs[0])))
        for gains, costs in curves.values()
    ]


def _envelope(method: MethodPaths, gain: str, cost: str) -> Envelope:
    curves = list(curves_of(method, gain, cost, Draws(resamples=0)).values())
    levels = np.linspace(0.0, float(best_gain(curves)[0]), _LEVELS)
    seeds = [_costs_of_seed(method, seed, gain, cost, levels) for seed in method.seeds] if len(method.seeds) > 1 else []
    band = []
    for number, level in enumerate(levels):
        each = [costs[number] for costs in seeds]
        if each and np.isfinite(each).all():
            band.append((float(level), float(min(each)), float(max(each))))
    costs = _least(curves, levels)
    return Envelope(tuple(map(float, levels)), tuple(map(float, costs)), tuple(band))


def _costs_of_seed(method: MethodPaths, seed: int, gain: str, cost: str, levels: np.ndarray) -> np.ndarray:
    rates = {rate: [run for run in runs if run.seed == seed] for rate, runs in method.rates.items()}
    mine = replace(method, rates={rate: runs for rate, runs in rates.items() if runs})
    return _least(list(curves_of(mine, gain, cost, Draws(resamples=0)).values()), levels)


def _least(curves: Sequence, levels: np.ndarray) -> np.ndarray:
    return np.array([least_cost(curves, np.array([level]))[0] for level in levels])
