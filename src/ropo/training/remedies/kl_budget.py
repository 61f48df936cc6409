"""End training when the policy has drifted further than a budget allows, and keep the last weights within it."""

from __future__ import annotations

__all__ = ["check_budget"]

import math
from typing import Any

from torch import Tensor

from ropo.core.errors import UserError
from ropo.training.remedies.average import as_saved, named_trained, put_values


class KlBudget:
    """A budget of KL(policy || reference), in nats per token, and the last trained weights that were within it.

    At a matched gain, forgetting follows this divergence (arXiv 2509.04259). What is compared is the monitor's estimate
    itself, not the end of its interval, and only where the monitor looks.

    Args:
        trainer: A `ropo.PreferenceTrainer`, whose checkpoints hold the kept weights too, so that a resumed run can go
            back to them.
        budget: Most nats per token.

    Raises:
        UserError: If the budget is not above 0, or another rule chooses the weights that are kept.

    Cost: one copy of the trained weights on the CPU, and the same in each checkpoint.
    """

    def __init__(self, trainer: Any, budget: float) -> None:
        check_budget(budget)
        if not hasattr(trainer, "keep_in_checkpoints"):
            raise UserError("stop_at_kl: needs ropo.PreferenceTrainer, whose checkpoints hold the kept weights too")
        if trainer.args.load_best_model_at_end:
            raise UserError(
                "stop_at_kl: cannot be combined with load_best_model_at_end, which keeps other weights; leave one of "
                "them out"
            )
        self.trainer, self.budget = trainer, budget
        self.kept: dict[str, Tensor] = {}
        self.kept_at = (0, 0.0)
        self.passed_at: tuple[int, float] | None = None
        trainer.keep_in_checkpoints("kl_budget", self)

    def begin(self) -> None:
        """Keep the start of a run, whose divergence is 0."""
        self.passed_at = None
        self._keep(0, 0.0)

    def look(self, step: int, kl: float) -> bool:
        """Keep the weights of this step where they are within the budget; else go back, and say True."""
        if kl <= self.budget:
            self._keep(step, kl)
            return False
        self.passed_at = step, kl
        put_values(self.trainer, self.kept)
        if self.trainer.remedies.average is not None:
            self.trainer.remedies.average.restart()
        return True

    def describe(self) -> str:
        """Say in one line what ended the run, and what is kept."""
        assert self.passed_at is not None
        return (
            f"KL(policy || reference) is {self.passed_at[1]:.3g} nats per token, above the budget of {self.budget:g}; "
            f"training ends with the weights of step {self.kept_at[0]} ({self.kept_at[1]:.3g} nats per token)"
        )

    def summary(self) -> dict[str, Any]:
        """Return the numbers for the run's record: the budget, the kept step, and the one that passed the budget."""
        kept = {"budget": self.budget, "kept_step": self.kept_at[0], "kept_kl_per_token": self.kept_at[1]}
        passed = self.passed_at
        return kept if passed is None else {**kept, "passed_step": passed[0], "passed_kl_per_token": passed[1]}

    def counters(self) -> dict[str, Any]:
        """Return the kept weights and what is known of them."""
        return {"kept": self.kept, "kept_at": self.kept_at, "passed_at": self.passed_at}

    def set_counters(self, counters: dict[str, Any]) -> None:
        """Go on from them."""
        self.kept, self.kept_at, self.passed_at = counters["kept"], counters["kept_at"], counters["passed_at"]

    def _keep(self, step: int, kl: float) -> None:
        with as_saved(self.trainer):
            self.kept = {name: each.detach().to("cpu", copy=True) for name, each in named_trained(self.trainer)}
        self.kept_at = step, kl


def check_budget(budget: float) -> None:
    """Raise `UserError` for a budget that is no number above 0."""
    if not (budget > 0 and math.isfinite(budget)):
        raise UserError(f"stop_at_kl: must be above 0 and finite, got {budget:g}; 0.05 to 1 nat per token are usual")
