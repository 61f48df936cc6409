"""The loss of a preference that may be labelled the wrong way round."""

from __future__ import annotations

__all__ = ()

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid


def smoothed_loss(argument: Float[Tensor, " pairs"], smoothing: float) -> Float[Tensor, " pairs"]:
    """Compute conservative DPO's loss of each pair; without smoothing it is DPO's.

        -(1 - eps) log sigmoid(z) - eps log sigmoid(-z)

    (Mitchell 2023, "A note on DPO with noisy preferences"). Its least is at sigmoid(z) = 1 - eps and not at infinity,
    so that a pair stops pushing when its margin is large enough.

    Args:
        argument: z, for DPO beta times the difference of the log-ratios.
        smoothing: eps, the probability that a label is flipped.
    """
    return -(1 - smoothing) * logsigmoid(argument) - smoothing * logsigmoid(-argument)
