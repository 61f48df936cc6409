"""The log-probs of held-out answers under a model, kept on disk, and what they say about it, pair by pair."""

from __future__ import annotations

__all__ = ()

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from ropo.core.kept import content_key, kept_rows
from ropo.diagnostics.behaviour import dpo_margins
from ropo.evaluation.contestants import Contestant, loaded
from ropo.evaluation.suites import Workplace
from ropo.evaluation.unit_values import UnitValues
from ropo.lm.fingerprint import fingerprint_source
from ropo.lm.held_out import HeldOutPairs
from ropo.lm.log_probs import pair_log_probs


@dataclass(frozen=True)
class AnswerScores:
    """What one model says of the answers; columns are chosen, rejected.

    Args:
        log_probs: Summed over an answer's tokens, in nats.
        tokens: Length of each answer.
    """

    log_probs: Float[np.ndarray, "pairs 2"]
    tokens: Int[np.ndarray, "pairs 2"]


def score_pairs(
    contestant: Contestant,
    pairs: HeldOutPairs,
    workplace: Workplace,
    advance: Callable[[int], None],
) -> AnswerScores:
    """Return the log-probs of all answers under a model, computed now or kept from an earlier run.

    Args:
        contestant: The model.
        pairs: The pairs, tokenised for this model.
        workplace: Where scores are kept, and how many answers go through the model at once.
        advance: Called with the number of pairs just done.

    Raises:
        UserError: If the model cannot be loaded.

    Cost: one forward pass over chosen and rejected, through an unmerged adapter, as training computes them.
    """
    tokens = pairs.tokens
    lengths = [[len(answer) for _, answer in pairs.limits.cut(pair)] for pair in tokens]
    size = max(1, workplace.batch_size // 2)

    def compute(start: int) -> Iterator[list[Any]]:
        with loaded(contestant, merged=False) as (model, _):
            for first in range(start, len(tokens), size):
                yield pair_log_probs(model, tokens[first : first + size], pairs.limits).tolist()

    wanted = {
        "model": fingerprint_source(contestant.source),
        "tokens": content_key([[list(pair.prompt), list(pair.chosen), list(pair.rejected)] for pair in tokens]),
        "limits": asdict(pairs.limits),
    }
    rows = kept_rows(workplace.cache / "log_probs", wanted, len(tokens), compute, advance)
    return AnswerScores(np.array(rows, dtype=float), np.array(lengths))


def read_scores(
    scores: AnswerScores, reference: AnswerScores | None, lengths: Int[np.ndarray, "pairs 2"], beta: float
) -> dict[str, UnitValues]:
    """Turn log-probs into one number per pair and metric.

    The margin is DPO's (`ropo.diagnostics.behaviour.dpo_margins`), and accuracy the share of margins above 0. Split by
    which answer has more characters, it shows a model that learnt length: accurate where the chosen answer is longer,
    wrong where it is shorter (Park et al. 2024, arXiv 2403.19159).

    Args:
        scores: The model's.
        reference: The reference's; None leaves out what needs one.
        lengths: Characters of each answer; columns chosen, rejected.
        beta: Strength of the pull to the reference.

    Returns:
        The values by the names of their metrics.
    """
    chosen, rejected = scores.log_probs.T
    per_token = scores.log_probs / scores.tokens
    prefers = "share of pairs whose chosen answer is the likelier one"
    by_metric = _split("prefers_chosen", chosen > rejected, prefers, lengths)
    by_metric["prefers_chosen_per_token"] = UnitValues(per_token[:, 0] > per_token[:, 1], f"{prefers} per token")
    by_metric["chosen_log_prob"] = UnitValues(chosen, "mean summed log-prob of the chosen answer, in nats")
    by_metric["rejected_log_prob"] = UnitValues(rejected, "mean summed log-prob of the rejected answer, in nats")
    if reference is not None:
        gain = scores.log_probs - reference.log_probs
        margin = dpo_margins(torch.from_numpy(scores.log_probs), torch.from_numpy(reference.log_probs), beta).numpy()
        by_metric |= _split("accuracy", margin > 0, "share of pairs with a DPO margin above 0", lengths)
        by_metric["margin"] = UnitValues(margin, f"mean DPO margin at beta {beta:g}, in nats")
        by_metric["chosen_gain"] = UnitValues(gain[:, 0], "mean log-prob of the chosen answer over the reference's")
        by_metric["rejected_gain"] = UnitValues(gain[:, 1], "mean log-prob of the rejected answer over the reference's")
    return by_metric


def _split(
    name: str, passed: Bool[np.ndarray, " pairs"], meaning: str, lengths: Int[np.ndarray, "pairs 2"]
) -> dict[str, UnitValues]:
    """Read a share of all pairs, of those whose chosen answer is longer, and of those whose chosen one is shorter."""
    chosen, rejected = lengths.T
    return {
        name: UnitValues(passed, meaning),
        f"{name}_when_longer": UnitValues(passed, f"{meaning}; pairs whose chosen answer is longer", chosen > rejected),
        f"{name}_when_shorter": UnitValues(passed, f"{meaning}; pairs whose chosen one is shorter", chosen < rejected),
    }
