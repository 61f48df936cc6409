"""SimPO: a margin of the mean log-prob of a token, without a reference."""

from __future__ import annotations

__all__ = ()

from jaxtyping import Float
from torch import Tensor

from ropo.training.remedies.scores import PairScores
from ropo.training.remedies.smoothed import smoothed_loss


def simpo_loss(scores: PairScores, beta: float, gamma: float, smoothing: float) -> Float[Tensor, " pairs"]:
    """Compute SimPO's loss of each pair.

        -log sigmoid(beta (log pi(y_w|x) / |y_w| - log pi(y_l|x) / |y_l|) - gamma)

    (Meng et al. 2024, arXiv 2405.14734, equation 6), as `trl.experimental.cpo.CPOTrainer` computes it. The reference
    takes no part; it is run all the same, for the rewards that TRL logs.

    Args:
        scores: Plain sums.
        beta: Scale of the mean log-prob; 2 to 10 in the paper.
        gamma: Margin that the chosen answer is to win by; 0.3 to 1.6 in the paper.
        smoothing: As in `smoothed_loss`.
    """
    means = scores.policy / scores.lengths.clamp(min=1)
    return smoothed_loss(beta * (means[:, 0] - means[:, 1]) - gamma, smoothing)
