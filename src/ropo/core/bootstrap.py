"""The percentile bootstrap (Efron 1979, doi 10.1214/aos/1176344552), in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

LEVEL = 0.95
RESAMPLES = 10_000
BLOCK = 1_000_000  # drawn numbers held at once


def bootstrap_interval(values: Float[np.ndarray, " n"], level: float = LEVEL, seed: int = 0) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a mean.

    Args:
        values: Independent measurements, at least one.
        level: Probability that the interval is to cover the mean.
        seed: Seed of the resampling.

    Returns:
        Lower and upper end.

    Cost: 10,000 resamples of `values`; a second for ten thousand values.
    """
    generator = np.random.default_rng(seed)
    blocks = _blocks(len(values), RESAMPLES, generator)
    means = np.concatenate([values[rows].mean(axis=1) for rows in blocks])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_rows(units: int, resamples: int, generator: np.random.Generator) -> Iterator[Int[np.ndarray, " n"]]:
    """Yield `resamples` draws of `units` numbers below `units`, with replacement."""
    for block in _blocks(units, resamples, generator):
        yield from block


def _blocks(units: int, resamples: int, generator: np.random.Generator) -> Iterator[Int[np.ndarray, "rows n"]]:
    size = max(1, BLOCK // units)
    for start in range(0, resamples, size):
        yield generator.integers(units, size=(min(size, resamples - start), units))
