"""Which losses of a run are computed here, and their sum; all others are TRL's."""

from __future__ import annotations

__all__ = ()

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ropo.training.remedies.length_term import length_term
from ropo.training.remedies.options import OWN_LOSSES
from ropo.training.remedies.positive import positive_penalty
from ropo.training.remedies.scores import PairScores
from ropo.training.remedies.simpo import simpo_loss
from ropo.training.remedies.smoothed import smoothed_loss

_Weighted = list[tuple[str, float]]


def split_losses(config: Any) -> tuple[_Weighted, _Weighted]:
    """Say which losses TRL computes and which are computed here, each with its weight.

    Args:
        config: A `ropo.training.config.PreferenceConfig`.
    """
    losses = list(zip(config.loss_type, config.loss_weights or [1.0] * len(config.loss_type), strict=True))
    if config.rpo_alpha is not None:
        losses.append(("sft", config.rpo_alpha))
    changed = config.dpop_lambda is not None or config.rdpo_alpha is not None
    mine = {*OWN_LOSSES, *(["sigmoid"] if changed else [])}
    return [each for each in losses if each[0] not in mine], [each for each in losses if each[0] in mine]


def own_loss(losses: _Weighted, scores: PairScores, beta: float, config: Any) -> Float[Tensor, ""]:
    """Compute the weighted sum of the losses that are computed here, each the mean over pairs.

    Args:
        losses: From `split_losses`.
        scores: The batch's.
        beta: Strength of the pull to the reference at this step.
        config: A `ropo.training.config.PreferenceConfig`.
    """
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
