"""The losses of a run that are computed here, each with its source, and their sum; all others are TRL's."""

from __future__ import annotations

__all__ = ()

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from ropo.training.remedies.options import OWN_LOSSES
from ropo.training.remedies.scores import PairScores

_Weighted = list[tuple[str, float]]


def split_losses(config: Any) -> tuple[_Weighted, _Weighted]:
    """Say which losses TRL computes and which are computed here, each with its weight."""
    losses = list(zip(config.loss_type, config.loss_weights or [1.0] * len(config.loss_type), strict=True))
    if config.rpo_alpha is not None:
        losses.append(("sft", config.rpo_alpha))
    changed = config.dpop_lambda is not None or config.rdpo_alpha is not None
    mine = {*OWN_LOSSES, *(["sigmoid"] if changed else [])}
    return [each for each in losses if each[0] not in mine], [each for each in losses if each[0] in mine]


def own_loss(losses: _Weighted, scores: PairScores, beta: float, config: Any) -> Float[Tensor, ""]:
    """Compute the weighted sum of the losses that are computed here, each the mean over pairs."""
    total = torch.zeros((), device=scores.policy.device)
    for name, weight in losses:
        if name == "simpo":
            each = simpo_loss(scores, beta, config.simpo_gamma, config.label_smoothing)
        else:
            smoothing = config.label_smoothing if name == "cdpo" else 0.0
            each = smoothed_loss(dpo_argument(scores, beta, config.dpop_lambda, config.rdpo_alpha), smoothing)
        total = total + weight * each.mean()
    return total


def dpo_argument(
    scores: PairScores, beta: float, dpop_lambda: float | None, rdpo_alpha: float | None
) -> Float[Tensor, " pairs"]:
    """Compute the argument of the sigmoid: DPO's, with the penalty and the term that were asked for.

        z = beta (r_w - r_l - lambda max(0, -r_w)) + alpha (|y_w| - |y_l|),   r = log pi(y|x) - log pi_ref(y|x)

    Args:
        scores: The batch's.
        beta: Strength of the pull to the reference.
        dpop_lambda: See `positive_penalty`; None for 0.
        rdpo_alpha: See `length_term`; None for 0.
    """
    ratios = scores.ratios
    argument = beta * (ratios[:, 0] - ratios[:, 1])
    if dpop_lambda is not None:
        argument = argument - beta * dpop_lambda * positive_penalty(ratios)
    if rdpo_alpha is not None:
        argument = argument + length_term(scores.lengths, rdpo_alpha)
    return argument


def positive_penalty(ratios: Float[Tensor, "pairs 2"]) -> Float[Tensor, " pairs"]:
    """Return by how many nats each chosen answer is less likely than under the reference; 0 where it is not.

        max(0, log pi_ref(y_w|x) - log pi(y_w|x))

    DPO's argument of the sigmoid loses beta * lambda times this (Pal et al. 2024, arXiv 2402.13228, equation 3). DPO
    alone is content when both answers fall, as long as the rejected one falls further.

    Args:
        ratios: Log pi - log pi_ref of chosen and rejected answers, summed over tokens.
    """
    return (-ratios[:, 0]).clamp(min=0)


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
