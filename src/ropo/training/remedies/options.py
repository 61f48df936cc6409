"""The options of all remedies, declared and checked once; a remedy that is not asked for changes nothing."""

from __future__ import annotations

__all__ = ["RemedyOptions"]

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ropo.core.errors import UserError
from ropo.core.files import read_text

OWN_LOSSES = ("cdpo", "simpo")  # beside TRL's


@dataclass
class RemedyOptions:
    """The options of `ropo.training.remedies`; docs/remedies.md says when to try which.

    Args:
        dpop_lambda: Weight of DPO-Positive's penalty; see `positive_penalty`.
        rdpo_alpha: Weight of R-DPO's length term; see `length_term`.
        rpo_alpha: Weight of the chosen answers' negative log-likelihood beside the loss (RPO, arXiv 2404.19733).
        simpo_gamma: Margin of the loss `simpo`; see `simpo_loss`.
        anchor_text: File of general text of which each batch reads a few windows; see `AnchorText`.
        anchor_weight: Weight of the loss on them.
        anchor_loss: `nll` or `kl`.
        ema_decay: Decay of the average of the trained parameters that becomes the model; see `Average`. None for none.
        beta_final: Beta of the last step; see `BetaSchedule`. None for one beta throughout.
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
    anchor_text: str | None = field(
        default=None, metadata={"help": "file of general text, of which each batch reads 4 windows of 128 tokens too"}
    )
    anchor_weight: float = field(default=1.0, metadata={"help": "weight of the loss on the anchor text"})
    anchor_loss: str = field(
        default="nll",
        metadata={"help": "loss on the anchor text: nll, or kl, the divergence from the reference's next token"},
    )
    ema_decay: float | None = field(
        default=None,
        metadata={"help": "save the moving average of what is trained, over the last 1 / (1 - VALUE) steps; 0.95, say"},
    )
    beta_final: float | None = field(default=None, metadata={"help": "beta of the last step, reached in equal parts"})


def check_remedies(config: Any) -> None:
    """Refuse a remedy whose value breaks its rule, or that another option excludes."""
    for name in ("dpop_lambda", "rdpo_alpha", "rpo_alpha"):
        value = getattr(config, name)
        _require(name, value, value is None or value > 0, "must be above 0", "leave it out for none")
    _require("simpo_gamma", config.simpo_gamma, config.simpo_gamma >= 0, "must not be negative", "0.5 is usual")
    decay, last = config.ema_decay, config.beta_final
    _require("ema_decay", decay, decay is None or 0 < decay < 1, "must be above 0 and below 1", "0.9 to 0.99 are usual")
    averaged = decay is not None and config.load_best_model_at_end
    _exclude("ema_decay", averaged, "cannot be combined with load_best_model_at_end, which keeps other weights")
    _require("beta_final", last, last is None or 0 < last < math.inf, "must be above 0 and finite", "0.1 is usual")
    weight = config.anchor_weight
    _require("anchor_weight", weight, 0 < weight < math.inf, "must be above 0 and finite", "1 is usual")
    if config.anchor_loss not in ("nll", "kl"):
        raise UserError(f"anchor_loss: there is no {config.anchor_loss!r}; choose from nll, kl")
    if config.anchor_text is None and (weight, config.anchor_loss) != (1.0, "nll"):
        raise UserError("anchor_weight, anchor_loss: there is no anchor text; give --anchor_text, or leave them out")
    if config.anchor_text is not None:
        read_text(Path(config.anchor_text), "anchor_text")
    losses = set(config.loss_type)
    for name in ("dpop_lambda", "rdpo_alpha"):
        if getattr(config, name) is not None:
            _exclude(name, not losses & {"sigmoid", "cdpo"}, "changes the losses sigmoid and cdpo only", "add one")
    _exclude("rpo_alpha", config.rpo_alpha is not None and "sft" in losses, "is the loss sft, which is given too")
    if own := _used_by_own_losses(config):
        _exclude(own, config.use_weighting, "cannot be combined with use_weighting")
        _exclude(own, config.f_divergence_type != "reverse_kl", "cannot be combined with another f_divergence_type")
    long = "simpo" in losses and config.ld_alpha is not None
    _exclude("loss_type simpo", long, "cannot be combined with ld_alpha, as it divides by the length")
    _exclude("loss_type cdpo", "cdpo" in losses and not config.label_smoothing, "needs label_smoothing", "0.1 is usual")


def check_unsharded(config: Any, adapted: bool, sharded: bool, cut: bool) -> None:
    """Refuse what no process can do where FSDP or DeepSpeed has cut the weights."""
    mend = "no process has the whole weights under FSDP and DeepSpeed"
    _exclude("ema_decay", cut and config.ema_decay is not None, mend, "leave it out, or train an adapter under FSDP2")
    _exclude("sync_ref_model", sharded and adapted and config.sync_ref_model, mend, "leave it out with an adapter")


def _used_by_own_losses(config: Any) -> str:
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
