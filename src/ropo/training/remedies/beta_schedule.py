"""A beta that changes while a model trains."""

from __future__ import annotations

__all__ = ()

from typing import Any

from transformers import TrainerCallback


class BetaSchedule(TrainerCallback):
    """Move beta from its first to its last value in equal parts, step by step.

    A beta that rises tightens the pull to the reference where a run is about to drift; one that falls lets go when the
    easy pairs are learnt. It depends on the step alone, so a resumed run goes on with it. After training the trainer
    has its first beta again, in which margins are told.
    """

    def __init__(self, trainer: Any, last: float) -> None:
        self.trainer, self.last = trainer, last

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the beta of the step."""
        self.trainer.beta = beta_at(state.global_step, state.max_steps, args.beta, self.last)
        self.trainer._metrics["train"]["beta"].append(self.trainer.beta)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the first beta again."""
        self.trainer.beta = args.beta


def beta_at(step: int, steps: int, first: float, last: float) -> float:
    """Return first + (last - first) * step / (steps - 1) for the step after `step` of `steps`."""
    return first + (last - first) * step / max(steps - 1, 1)
