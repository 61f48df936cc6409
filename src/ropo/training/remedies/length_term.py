"""R-DPO: what a token costs an answer, so that length is no cheap way to a higher reward."""

from __future__ import annotations

__all__ = ()

from jaxtyping import Float, Int
from torch import Tensor


def length_term(lengths: Int[Tensor, "pairs 2"], alpha: float) -> Float[Tensor, " pairs"]:
    """Return what R-DPO adds to the argument of DPO's sigmoid.

        alpha * (|y_w| - |y_l|)

    With a reward r(x, y) - alpha |y| instead of r, the best policy has r = beta log(pi / pi_ref) + alpha |y| + const,
    and that difference of r goes into the Bradley-Terry model (Park et al. 2024, arXiv 2403.19159, section 4). A pair
    whose chosen answer is longer is explained by its length already, and pushes less; one whose chosen answer is
    shorter pushes more.

    Args:
        lengths: Tokens of chosen and rejected answers.
        alpha: Cost of a token, in units of the reward (beta times nats).
    """
    return alpha * (lengths[:, 0] - lengths[:, 1]).float()
