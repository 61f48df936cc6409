"""TR-DPO: a reference that follows the policy, for an adapter as well."""

from __future__ import annotations

__all__ = ()

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from ropo.training.reference import copied_tensors


class MovingReference(TrainerCallback):
    """Mix the policy into its reference every so many steps, and let a resumed run go on with that reference.

        pi_ref <- alpha pi + (1 - alpha) pi_ref    every tau steps

    in the parameters (Gorbatovski et al. 2024, arXiv 2404.09656), by TRL's own options: `sync_ref_model`, alpha
    `ref_model_mixup_alpha` and tau `ref_model_sync_steps`. With an adapter the reference is a second one beside it, so
    that it costs what an adapter costs (asked for in TRL's issue 3108). What is mixed are its parameters: angles,
    vectors and log-magnitudes of a rotation, which stays one; the factors of LoRA, whose product is then not the mix of
    the products. With alpha = 1 the reference is a copy for any method.

    Fully trained models have TRL's own callback, which this leaves to its work.

    Cost: an adapter, twice in memory and once in each checkpoint; or the reference model, once in each checkpoint.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        adapted = trainer.ref_model is None
        self._start = [each.detach().clone() for each in self._reference()] if adapted else []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the adapter's copy, where it is time."""
        if self.trainer.ref_model is None and state.global_step % args.ref_model_sync_steps == 0:
            with torch.no_grad():
                for policy, reference in copied_tensors(self._model):
                    mix(policy, reference, args.ref_model_mixup_alpha)

    @contextmanager
    def at_start(self) -> Iterator[None]:
        """Put the reference where it was when training began: what forgets and drifts is measured from there."""
        reference = self._reference()
        moved = [each.detach().clone() for each in reference]
        _fill(reference, self._start)
        try:
            yield
        finally:
            _fill(reference, moved)

    def counters(self) -> dict[str, Any]:
        """Return the reference as it is."""
        return {"reference": [each.detach() for each in self._reference()]}

    def set_counters(self, counters: dict[str, Any]) -> None:
        """Go on with it."""
        _fill(self._reference(), counters["reference"])

    @property
    def _model(self) -> Any:
        return self.trainer.accelerator.unwrap_model(self.trainer.model)

    def _reference(self) -> list[Tensor]:
        if self.trainer.ref_model is not None:
            return list(self.trainer.accelerator.unwrap_model(self.trainer.ref_model).parameters())
        return [reference for _, reference in copied_tensors(self._model)]


def mix(policy: Tensor, reference: Tensor, alpha: float) -> None:
    """Change a tensor of the reference to alpha times the policy's plus 1 - alpha times its own; a count is copied."""
    if reference.is_floating_point():
        reference.mul_(1.0 - alpha).add_(policy, alpha=alpha)
    else:
        reference.copy_(policy)


@contextmanager
def hidden_from_trl(args: Any, adapted: bool) -> Iterator[None]:
    """Keep TRL from refusing, when its trainer is made, an adapter's moving reference, which is moved here."""
    wanted = args.sync_ref_model
    args.sync_ref_model = wanted and not adapted
    try:
        yield
    finally:
        args.sync_ref_model = wanted


def _fill(tensors: list[Tensor], values: list[Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)
