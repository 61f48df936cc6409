"""The options of all remedies, declared and checked once; a remedy that is not asked for changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ropo.core.errors import UserError

OWN_LOSSES = ("cdpo", "simpo")  # beside TRL's


@dataclass
class RemedyOptions:
    """Hold the options of `ropo.training.remedies`; docs/remedies.md says when to try which.

    Args:
        dpop_lambda: Weight of DPO-Positive's penalty; see `positive_penalty`.
        rdpo_alpha: Weight of R-DPO's length term; see `length_term`.
        rpo_alpha: Weight of the chosen answers' negative log-likelihood beside the loss (RPO, arXiv 2404.19733).
        simpo_gamma: Margin of the loss `simpo`; see `simpo_loss`.
    """

    dpop_lambda: float | None = field(
        default=None,
        metadata={"help": "DPO-Positive: weight of the penalty on chosen answers that lose log-prob; 50 in its paper"},
    )
    rdpo_alpha: float | None = field(
        default=None,
        metadata={"help": "R-DPO: what each token costs an answer, in units of the reward; 0.01 is a start"},
    )
    rpo_alpha: float | None = field(
        default=None,
        metadata={"help": "RPO: weight of the chosen answers' negative log-likelihood beside the loss; 1 is usual"},
    )
    simpo_gamma: float = field(
        default=0.5, metadata={"help": "margin of --loss_type simpo, which wants a beta of 2 to 10"}
    )


def check_remedies(config: Any) -> None:
    """Refuse a remedy whose value breaks its rule, or that another option excludes.

    Args:
        config: A `ropo.training.config.PreferenceConfig`.

    Raises:
        UserError: Naming the option, the rule and the mend.
    """
    for name in ("dpop_lambda", "rdpo_alpha", "rpo_alpha"):
        value = getattr(config, name)
        _require(name, value, value is None or value > 0, "must be above 0", "leave it out for none")
    _require("simpo_gamma", config.simpo_gamma, config.simpo_gamma >= 0, "must not be negative", "0.5 is usual")
    losses = set(config.loss_type)
    for name in ("dpop_lambda", "rdpo_alpha"):
        if getattr(config, name) is not None:
            _exclude(name, not losses & {"sigmoid", "cdpo"}, "changes the losses sigmoid and cdpo only", "add one")
    _exclude("rpo_alpha", config.rpo_alpha is not None and "sft" in losses, "is the loss sft, which is given too")
    if own := used_by_own_losses(config):
        _exclude(own, config.use_weighting, "cannot be combined with use_weighting")
        _exclude(own, config.f_divergence_type != "reverse_kl", "cannot be combined with another f_divergence_type")
    long = "simpo" in losses and config.ld_alpha is not None
    _exclude("loss_type simpo", long, "cannot be combined with ld_alpha, as it divides by the length")
    _exclude("loss_type cdpo", "cdpo" in losses and not config.label_smoothing, "needs label_smoothing", "0.1 is usual")


def used_by_own_losses(config: Any) -> str:
    """Name the first option that lets a loss be computed here rather than by TRL; the empty string for none."""
    named = [f"loss_type {name}" for name in OWN_LOSSES if name in config.loss_type]
    given = [name for name in ("dpop_lambda", "rdpo_alpha") if getattr(config, name) is not None]
    return next(iter(given + named), "")


def _exclude(name: str, excluded: bool, rule: str, mend: str = "leave one of them out") -> None:
    if excluded:
        raise UserError(f"{name}: {rule}; {mend}")


def _require(name: str, value: Any, holds: bool, rule: str, mend: str) -> None:
    if not holds:
        raise UserError(f"{name}: {rule}, got {value:g}; {mend}")
