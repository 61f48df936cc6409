"""DPO-Positive: no credit for a margin that the chosen answer pays for."""

from __future__ import annotations

__all__ = ()

from jaxtyping import Float
from torch import Tensor


def positive_penalty(ratios: Float[Tensor, "pairs 2"]) -> Float[Tensor, " pairs"]:
    """Return by how many nats each chosen answer is less likely than under the reference; 0 where it is not.

        max(0, log pi_ref(y_w|x) - log pi(y_w|x))

    DPO's argument of the sigmoid loses beta * lambda times this (Pal et al. 2024, arXiv 2402.13228, equation 3). DPO
    alone is content when both answers fall, as long as the rejected one falls further.

    Args:
        ratios: Log pi - log pi_ref of chosen and rejected answers, summed over tokens.
    """
    return (-ratios[:, 0]).clamp(min=0)
