"""The remedies that a run's options ask for, together: what they add to its loss, and what they do at each step."""

from __future__ import annotations

__all__ = ()

from collections.abc import Callable
from typing import Any

from ropo.training.remedies.anchor import AnchorText
from ropo.training.remedies.average import Average
from ropo.training.remedies.beta_schedule import BetaSchedule
from ropo.training.remedies.losses import own_loss, split_losses
from ropo.training.remedies.moving_reference import MovingReference
from ropo.training.remedies.scores import drift_metrics, pair_scores, seeing_scores


class Remedies:
    """Take from TRL the losses that are computed here, and add what the other remedies do at each step.

    Attributes:
        moving_reference: The reference that follows the policy, or None.
        average: The average of what is trained, or None.
        anchor: The text whose loss is added, or None.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer, args = trainer, trainer.args
        theirs, self._own_losses = split_losses(args)
        trainer.loss_types, trainer.loss_weights = [name for name, _ in theirs], [weight for _, weight in theirs]
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

    def loss_of_pairs(self, theirs: Callable[[], Any], inputs: dict[str, Any]) -> Any:
        """Add the losses that TRL does not have to those that it computes, and log how far a batch's answers drifted.

        Args:
            theirs: Computes TRL's loss, perhaps with outputs beside it, whose log-probs serve here too.
            inputs: The padded batch.
        """
        trainer = self.trainer
        with seeing_scores(trainer.model, trainer.ref_model) as seen:
            result = theirs()
        scores = pair_scores(seen, inputs, trainer.ld_alpha)
        for name, value in drift_metrics(scores, trainer.accelerator.gather).items():
            trainer._metrics["train" if trainer.model.training else "eval"][name].append(value)
        if not self._own_losses:
            return result
        own = own_loss(self._own_losses, scores, trainer.beta, trainer.args)
        return (result[0] + own, *result[1:]) if isinstance(result, tuple) else result + own
