"""The remedies that a run's options ask for, together: the losses that they add, and what they do at each step."""

from __future__ import annotations

__all__ = ()

from typing import Any

from ropo.training.remedies.anchor import AnchorText
from ropo.training.remedies.average import Average
from ropo.training.remedies.beta_schedule import BetaSchedule
from ropo.training.remedies.losses import own_loss, split_losses
from ropo.training.remedies.moving_reference import MovingReference
from ropo.training.remedies.scores import OwnLoss


class Remedies:
    """Take from TRL the losses that are computed here, and add what the other remedies do at each step.

    Attributes:
        own_loss: Computes the losses that TRL has not from a batch's scores, or None.
        moving_reference: The reference that follows the policy, or None.
        average: The average of what is trained, or None.
        anchor: The text whose loss is added, or None.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer, args = trainer, trainer.args
        theirs, own = split_losses(args)
        trainer.loss_types, trainer.loss_weights = [name for name, _ in theirs], [weight for _, weight in theirs]
        self.own_loss: OwnLoss | None = (lambda scores: own_loss(own, scores, trainer.beta, args)) if own else None
        moves = args.sync_ref_model and not trainer.holders.are_sharded
        self.moving_reference = MovingReference(trainer) if moves else None
        self.average = None if args.ema_decay is None else Average(trainer, args.ema_decay)
        self.anchor = None if args.anchor_text is None else AnchorText(trainer)
        schedule = None if args.beta_final is None else BetaSchedule(trainer, args.beta_final)
        for each in filter(None, (self.moving_reference, self.average, self.anchor, schedule)):
            trainer.add_callback(each)

    def counting(self) -> dict[str, Any]:
        """Return those that checkpoints remember, by name."""
        remembering = {"moving_reference": self.moving_reference, "average": self.average}
        return {name: each for name, each in remembering.items() if each is not None}
