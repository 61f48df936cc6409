"""Whether a change that was measured on a sample is more than chance."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

EXACT = 13  # changes up to which all 2^n choices of signs are tried: 8,192
DRAWS = 9_999
_ROUNDING = 1e-12  # relative: sums of the same numbers in another order must count as equal


def chance_of_rise(changes: Float[np.ndarray, " units"], seed: int = 0) -> float:
    """Compute how often a mean change would come out this high by chance: the one-sided sign-flip test.

    Where the model did not change, a unit's two measurements could as well have changed places, so its difference has
    either sign with equal probability, whatever its distribution:

        p = P(mean(s_i d_i) >= mean(d_i)),  s_i = +-1 independent and fair

    (Fisher 1935, The Design of Experiments, section 21). It needs no normal distribution and is exact for few units;
    one large difference among many small ones stays insignificant. The smallest p is 2^-n.

    Args:
        changes: New minus old measurement of each independent unit (prompt, pair, piece of text).
        seed: Seed of the draws.

    Returns:
        The p-value: over all signs up to 13 units, else over 9,999 seeded draws and the observed signs themselves, so
        at least 1e-4; 1 where nothing changed, or there is no unit.

    Cost: at most 10,000 x units multiplications.
    """
    units = len(changes)
    if units <= EXACT:
        signs = 1.0 - 2.0 * ((np.arange(2**units)[:, None] >> np.arange(units)) & 1)
    else:
        drawn = np.random.default_rng(seed).integers(2, size=(DRAWS, units))
        signs = np.vstack([np.ones(units), 1.0 - 2.0 * drawn])
    sums = signs @ changes
    return float((sums >= changes.sum() - _ROUNDING * np.abs(changes).sum()).mean())
