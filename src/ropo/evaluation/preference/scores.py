"""The log-probs of held-out answers under a model, kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ropo.core.kept import content_key, kept_rows
from ropo.evaluation.contestants import Contestant, fingerprint_source, loaded
from ropo.evaluation.suites import Workplace
from ropo.lm.loading import load_tokenizer
from ropo.lm.log_probs import pair_log_probs
from ropo.lm.tokens import shorten_pair, tokenize_pair


@dataclass(frozen=True)
class PairScores:
    """Hold what one model says of the answers; columns are chosen, rejected.

    Args:
        log_probs: Summed over an answer's tokens, in nats.
        tokens: Length of each answer.
        cut: Number of pairs that were longer than the longest length.
    """

    log_probs: Float[np.ndarray, "pairs 2"]
    tokens: Int[np.ndarray, "pairs 2"]
    cut: int


def score_pairs(
    contestant: Contestant,
    pairs: Sequence[Mapping[str, Any]],
    max_length: int,
    workplace: Workplace,
    advance: Callable[[int], None],
) -> PairScores:
    """Return the log-probs of all answers under a model, computed now or kept from an earlier run.

    Args:
        contestant: The model.
        pairs: Checked pairs, as `ropo.preferences` reads them.
        max_length: Longest prompt, and longest answer, in tokens.
        workplace: Where scores are kept, and how many answers go through the model at once.
        advance: Called with the number of pairs just done.

    Raises:
        UserError: If the model cannot be loaded, or has no chat template for pairs of messages.

    Cost: one forward pass over chosen and rejected.
    """
    tokenizer = load_tokenizer(contestant.source)
    whole = [tokenize_pair(tokenizer, pair) for pair in pairs]
    tokens = [shorten_pair(pair, max_length) for pair in whole]
    size = max(1, workplace.batch_size // 2)

    def compute(start: int) -> Iterator[list[Any]]:
        with loaded(contestant) as (model, _):
            for first in range(start, len(tokens), size):
                yield pair_log_probs(model, tokens[first : first + size]).tolist()

    wanted = {
        "model": fingerprint_source(contestant.source),
        "tokens": content_key([[list(pair.prompt), list(pair.chosen), list(pair.rejected)] for pair in tokens]),
    }
    rows = kept_rows(workplace.cache / "log_probs", wanted, len(tokens), compute, advance)
    return PairScores(
        np.array(rows, dtype=float),
        np.array([[len(pair.chosen), len(pair.rejected)] for pair in tokens]),
        sum(short != long for short, long in zip(tokens, whole, strict=True)),
    )
