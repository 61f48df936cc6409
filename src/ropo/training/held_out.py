"""What a run did to held-out pairs: margins and accuracy, with an interval that says how sure they are."""

from __future__ import annotations

__all__ = ()

from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from ropo.core.intervals import bootstrap_interval
from ropo.diagnostics.behaviour import dpo_margins


def held_out_metrics(
    before: Float[np.ndarray, "pairs 2"], after: Float[np.ndarray, "pairs 2"], beta: float
) -> dict[str, Any]:
    """Summarise held-out pairs before and after training.

    Args:
        before: Summed log-probs of the policy at the start, which is the reference; columns chosen, rejected.
        after: Those at the end.
        beta: As in `ropo.diagnostics.behaviour.dpo_margins`.

    Returns:
        `margin` with its 95 % interval (None for one pair) and `margins` pair by pair; `loss`, the mean DPO loss
        -log sigmoid(margin), which is ln 2 at the start; `accuracy`, the share of pairs with a margin above 0; mean
        log-probs before and after; and `prefers_chosen`, the share of pairs whose chosen answer is the likelier one,
        before and after.
    """
    margins = dpo_margins(torch.from_numpy(after), torch.from_numpy(before), beta).numpy()
    return {
        "pairs": len(margins),
        "loss": float(np.logaddexp(0.0, -margins).mean()),
        "margin": float(margins.mean()),
        "margin_interval": bootstrap_interval(margins) if len(margins) > 1 else None,
        "accuracy": float((margins > 0).mean()),
        "chosen_before": float(before[:, 0].mean()),
        "chosen_after": float(after[:, 0].mean()),
        "rejected_before": float(before[:, 1].mean()),
        "rejected_after": float(after[:, 1].mean()),
        "prefers_chosen_before": float((before[:, 0] > before[:, 1]).mean()),
        "prefers_chosen_after": float((after[:, 0] > after[:, 1]).mean()),
        "margins": margins.tolist(),
    }
