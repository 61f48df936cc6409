"""What an adapter says of pairs and of a plain text at several strengths: one forward pass for each, kept on disk."""

from __future__ import annotations

__all__ = ()

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ropo.core.kept import content_key, kept_rows
from ropo.evaluation.contestants import Contestant, loaded
from ropo.evaluation.suites import Workplace
from ropo.lm.dial import strength_dial
from ropo.lm.fingerprint import fingerprint_source
from ropo.lm.held_out import HeldOutPairs
from ropo.lm.log_probs import answer_distributions, fitted_batches, text_losses
from ropo.lm.tokens import TextWindow

_Score = tuple[float, float]  # of one answer: its log-prob, and the KL divergence summed over its tokens


@dataclass(frozen=True)
class Curve:
    """What an adapter says at each strength, and what its base model says.

    Args:
        reference: The base's log-probs of the answers, in nats; columns chosen, rejected.
        log_probs: The adapter's.
        kl: KL(adapter || base) summed over the tokens of both answers of a pair, in nats.
        tokens: Tokens of both answers of a pair.
        reference_losses: The base's loss on each window of the text, in nats per token.
        losses: The adapter's.
    """

    reference: Float[np.ndarray, "pairs 2"]
    log_probs: Float[np.ndarray, "strengths pairs 2"]
    kl: Float[np.ndarray, "strengths pairs"]
    tokens: Int[np.ndarray, " pairs"]
    reference_losses: Float[np.ndarray, " windows"]
    losses: Float[np.ndarray, "strengths windows"]


def score_strengths(
    contestant: Contestant,
    strengths: Sequence[float],
    pairs: HeldOutPairs,
    windows: Sequence[TextWindow],
    workplace: Workplace,
    advance: Callable[[int], None],
) -> Curve:
    """Run an adapter, and its base model, over pairs and text.

    Args:
        contestant: An adapter, without a strength of its own.
        strengths: Where to measure.
        pairs: The pairs, tokenised for this model.
        windows: The text, tokenised for it.
        workplace: Where scores are kept, and how many answers go between two writes.
        advance: Called with the number of pairs or windows just done.

    Raises:
        UserError: If the model cannot be loaded, or its method has no strength.

    Cost: one forward pass over answers and text for the base model and for each strength but 0, which is the base.
    """
    wanted = {"model": fingerprint_source(contestant.source), "strengths": list(strengths)}
    about_pairs = {**wanted, **pairs.content()}
    about_text = {**wanted, "windows": content_key([each.ids for each in windows])}
    size = max(1, workplace.batch_size // 2)
    with ExitStack() as stack:

        @cache
        def opened() -> _Dialled:
            model, _ = stack.enter_context(loaded(contestant, merged=False))
            return _Dialled(model, strength_dial(model, contestant.source), strengths)

        def of_pairs(start: int) -> Iterator[list[Any]]:
            for first in range(start, len(pairs.tokens), size):
                sequences = [pairs.limits.cut(pair) for pair in pairs.tokens[first : first + size]]
                yield list(_score_pairs(opened(), sequences))

        def of_text(start: int) -> Iterator[list[Any]]:
            for first in range(start, len(windows), workplace.batch_size):
                yield _score_text(opened(), windows[first : first + workplace.batch_size])

        folder = workplace.cache / "strength"
        rows = np.array(kept_rows(folder, about_pairs, len(pairs.tokens), of_pairs, advance), dtype=float)
        text = np.array(kept_rows(folder, about_text, len(windows), of_text, advance), dtype=float)
    scores = rows.transpose(1, 0, 2, 3)  # strengths, pairs, answers, log-prob and KL
    return Curve(
        scores[0, :, :, 0],
        scores[1:, :, :, 0],
        scores[1:, :, :, 1].sum(2),
        pairs.answer_lengths().sum(1),
        text[:, 0],
        text[:, 1:].T,
    )


@dataclass(frozen=True)
class _Dialled:
    """A model with its adapter on, what turns it, and where to."""

    model: Any
    turn: Callable[[float], None]
    strengths: Sequence[float]

    def at_each(self, run: Callable[[Any], Any]) -> Iterator[Any]:
        """Yield what something gives of the base model, and then of the adapter at each strength."""
        with self.model.disable_adapter():
            reference = run(self.model)
        yield reference
        for strength in self.strengths:
            if strength == 0:
                yield reference
            else:
                self.turn(strength)
                yield run(self.model)


def _score_pairs(
    dialled: _Dialled, sequences: Sequence[Sequence[tuple[Sequence[int], Sequence[int]]]]
) -> Iterator[list[tuple[_Score, _Score]]]:
    """Yield a row for each pair: the scores of both answers, for the base and for each strength."""
    flat = [each for pair in sequences for each in pair]
    columns: list[list[_Score]] = []  # one for each answer
    for batch in fitted_batches(dialled.model, [prompt for prompt, _ in flat], [answer for _, answer in flat]):
        columns += _score_batch(dialled, *batch)
    for chosen, rejected in zip(columns[::2], columns[1::2], strict=True):
        yield list(zip(chosen, rejected, strict=True))


def _score_batch(
    dialled: _Dialled, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> list[list[_Score]]:
    """Score a few answers; one pass serves both log-probs and divergences, and only the base's is held."""
    found: list[list[_Score]] = [[] for _ in answers]
    reference: list[Tensor] | None = None
    for distributions in dialled.at_each(lambda model: answer_distributions(model, prompts, answers)):
        reference = reference or distributions
        for number, (rows, base, answer) in enumerate(zip(distributions, reference, answers, strict=True)):
            found[number].append((_log_prob(rows, answer), divergence(rows, base)))
    return found


def _log_prob(rows: Float[Tensor, "tokens vocabulary"], answer: Sequence[int]) -> float:
    targets = torch.tensor(answer, device=rows.device)
    return float(rows.gather(1, targets[:, None]).double().sum())


def divergence(rows: Float[Tensor, "tokens vocabulary"], base: Float[Tensor, "tokens vocabulary"]) -> float:
    """Return KL(p || q) = sum_v p(v) (log p(v) - log q(v)), exact over the vocabulary, summed over tokens.

    Args:
        rows: log p of each token, in nats.
        base: log q.
    """
    terms = rows.exp() * (rows - base)
    return float(torch.where(rows.isneginf(), 0.0, terms).double().sum())  # what has no probability adds nothing


def _score_text(dialled: _Dialled, windows: Sequence[TextWindow]) -> list[list[float]]:
    losses = list(dialled.at_each(lambda model: text_losses(model, windows)))
    return [list(row) for row in zip(*losses, strict=True)]
