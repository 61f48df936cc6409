"""The raw win rate of AlpacaEval and its standard error."""

from __future__ import annotations

__all__ = ()

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

NO_VERDICT = 0.5  # a judge that gave no verdict counts as a tie


def win_rate(wins: Float[np.ndarray, " n"] | Sequence[float]) -> float:
    """Return the win rate in percent: 100 times the mean probability that the model's answer is the better one.

    AlpacaEval (arXiv 2404.04475) writes a preference p between 1 and 2, with p - 1 that probability.

    Args:
        wins: That probability for each instruction, 0 to 1, a tie 0.5.
    """
    return 100.0 * float(np.mean(wins))


def standard_error(wins: Float[np.ndarray, " n"] | Sequence[float]) -> float | None:
    """Return the standard error of the win rate in percentage points, s / sqrt(n) with s over n - 1; None for n < 2."""
    return 100.0 * float(np.std(wins, ddof=1)) / len(wins) ** 0.5 if len(wins) > 1 else None
