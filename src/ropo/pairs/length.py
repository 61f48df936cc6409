"""Match the lengths of chosen and rejected answers, so that length is not what the model learns."""

from __future__ import annotations

__all__ = ()

from collections.abc import Sequence

from ropo.pairs.candidates import Pair

TOLERANCE = 0.02


def length_ratio(pairs: Sequence[Pair]) -> float:
    """Return the mean length of the chosen answers over that of the rejected ones, in tokens."""
    return sum(pair.chosen.tokens for pair in pairs) / sum(pair.rejected.tokens for pair in pairs)


def match_lengths(pairs: Sequence[Pair], tolerance: float = TOLERANCE) -> list[Pair]:
    """Leave out the pairs that bend the mean length most, until chosen and rejected are as long on average.

    The condition is |sum of chosen tokens / sum of rejected tokens - 1| <= tolerance. The pair that leaves is the one
    with the largest difference in the direction of the excess, and of equal ones the last: few pairs are lost.

    Args:
        pairs: Any pairs.
        tolerance: Largest deviation of the ratio from 1.

    Returns:
        The pairs that stay, in their order; possibly none.

    Cost: O(n log n).
    """
    order = sorted(range(len(pairs)), key=lambda index: (pairs[index].extra_tokens, -index))
    chosen = sum(pair.chosen.tokens for pair in pairs)
    rejected = sum(pair.rejected.tokens for pair in pairs)
    first, last = 0, len(order)
    while first < last and abs(chosen - rejected) > tolerance * rejected:
        if chosen > rejected:
            last -= 1
            leaving = pairs[order[last]]
        else:
            leaving = pairs[order[first]]
            first += 1
        chosen -= leaving.chosen.tokens
        rejected -= leaving.rejected.tokens
    return [pairs[index] for index in sorted(order[first:last])]
