"""What the log-probs of held-out answers say about a model, pair by pair."""

from __future__ import annotations

__all__ = ()

import numpy as np
import torch
from jaxtyping import Bool, Int

from ropo.diagnostics.behaviour import dpo_margins
from ropo.evaluation.preference.scores import PairScores
from ropo.evaluation.readings import Reading


def read_scores(
    scores: PairScores, reference: PairScores | None, lengths: Int[np.ndarray, "pairs 2"], beta: float
) -> dict[str, Reading]:
    """Turn log-probs into one number a pair and metric.

    The margin is DPO's (`ropo.diagnostics.behaviour.dpo_margins`), and accuracy the share of margins above 0. Split by
    which answer has more characters, it shows a model that learnt length: accurate where the chosen answer is longer,
    wrong where it is shorter (Park et al. 2024, arXiv 2403.19159).

    Args:
        scores: The model's.
        reference: The reference's; None leaves out what needs one.
        lengths: Characters of each answer; columns chosen, rejected.
        beta: Strength of the pull to the reference.

    Returns:
        The readings by the names of their metrics.
    """
    chosen, rejected = scores.log_probs.T
    per_token = scores.log_probs / scores.tokens
    prefers = "share of pairs whose chosen answer is the likelier one"
    readings = _split("prefers_chosen", chosen > rejected, prefers, lengths)
    readings["prefers_chosen_per_token"] = Reading(per_token[:, 0] > per_token[:, 1], f"{prefers} per token")
    readings["chosen_log_prob"] = Reading(chosen, "mean summed log-prob of the chosen answer, in nats")
    readings["rejected_log_prob"] = Reading(rejected, "mean summed log-prob of the rejected answer, in nats")
    if reference is not None:
        gain = scores.log_probs - reference.log_probs
        margin = dpo_margins(torch.from_numpy(scores.log_probs), torch.from_numpy(reference.log_probs), beta).numpy()
        readings |= _split("accuracy", margin > 0, "share of pairs with a DPO margin above 0", lengths)
        readings["margin"] = Reading(margin, f"mean DPO margin at beta {beta:g}, in nats")
        readings["chosen_gain"] = Reading(gain[:, 0], "mean log-prob of the chosen answer over the reference's")
        readings["rejected_gain"] = Reading(gain[:, 1], "mean log-prob of the rejected answer over the reference's")
    return readings


def _split(
    name: str, passed: Bool[np.ndarray, " pairs"], meaning: str, lengths: Int[np.ndarray, "pairs 2"]
) -> dict[str, Reading]:
    """Read a share of all pairs, of those whose chosen answer is longer, and of those whose chosen one is shorter."""
    chosen, rejected = lengths.T
    return {
        name: Reading(passed, meaning),
        f"{name}_when_longer": Reading(passed, f"{meaning}; pairs whose chosen answer is longer", chosen > rejected),
        f"{name}_when_shorter": Reading(passed, f"{meaning}; pairs whose chosen one is shorter", chosen < rejected),
    }
