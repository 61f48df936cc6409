"""The log-probs of held-out answers under a model, kept on disk."""

from __future__ import annotations

__all__ = ()

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ropo.core.kept import content_key, kept_rows
from ropo.evaluation.contestants import Contestant, loaded
from ropo.evaluation.suites import Workplace
from ropo.lm.fingerprint import fingerprint_source
from ropo.lm.held_out import HeldOutPairs
from ropo.lm.log_probs import pair_log_probs


@dataclass(frozen=True)
class PairScores:
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
) -> PairScores:
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
    return PairScores(np.array(rows, dtype=float), np.array(lengths))
