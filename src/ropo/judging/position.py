"""Whether a judge says the same of two answers when they change places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ropo.judging.pairwise import Preference


@dataclass(frozen=True)
class OrderCheck:
    """Hold what the two orders of some duels gave.

    Args:
        agree: For each duel judged in both orders, whether the same answer (or a tie) won in both.
        first_preferred: For each, the mean probability that the answer shown first won, 0.5 without bias.
        missing: Duels without a verdict in one of the orders, which neither number is over.
    """

    agree: np.ndarray
    first_preferred: np.ndarray
    missing: int


def check_orders(shown: Sequence[Preference], swapped: Sequence[Preference]) -> OrderCheck:
    """Compare the verdicts on the same duels in both orders.

    A judge that looks only at the position has agreement 0 and prefers the first with probability 0 or 1.

    Args:
        shown: Verdicts in one order.
        swapped: Verdicts on the same duels in the other order.
    """
    agree, first = [], []
    for one, other in zip(shown, swapped, strict=True):
        if one.second is None or other.second is None:
            continue
        agree.append(np.sign(one.second - 0.5) == -np.sign(other.second - 0.5))
        first.append(1.0 - (one.second + other.second) / 2.0)
    return OrderCheck(np.array(agree, dtype=bool), np.array(first, dtype=float), len(shown) - len(agree))
