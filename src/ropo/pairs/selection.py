"""Choose pairs among the scored answers to one prompt."""

from __future__ import annotations

__all__ = ()

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from ropo.core.errors import UserError


class Dropped(StrEnum):
    """Why a prompt gave no pair."""

    CUT = "fewer than two finished answers with a score"
    SAME = "all answers equal"
    CONTRAST = "no contrast"
    LENGTH = "length matching"


@dataclass(frozen=True)
class ScoredAnswer:
    """One answer with its score: its text, length in tokens, and whether the model ended it."""

    text: str
    tokens: int
    finished: bool
    score: float


_Chosen = list[tuple[ScoredAnswer, ScoredAnswer]]  # chosen and rejected


def _best_worst(ordered: Sequence[ScoredAnswer], threshold: float, random: Random) -> _Chosen:
    """Pair the best answer with the worst."""
    return [(ordered[0], ordered[-1])]


def _best_random(ordered: Sequence[ScoredAnswer], threshold: float, random: Random) -> _Chosen:
    """Pair the best answer with one drawn from those that fail and score less, as it may fail itself."""
    best = ordered[0]
    failing = [candidate for candidate in ordered if candidate.score < min(threshold, best.score)]
    return [(best, random.choice(failing))] if failing else []


def _passing_failing(ordered: Sequence[ScoredAnswer], threshold: float, random: Random) -> _Chosen:
    """Pair every answer that passes with every one that fails, in random order."""
    pairs = [(good, bad) for good in ordered if good.score >= threshold for bad in ordered if bad.score < threshold]
    random.shuffle(pairs)
    return pairs


STRATEGIES: dict[str, Callable[[Sequence[ScoredAnswer], float, Random], _Chosen]] = {
    "best-worst": _best_worst,
    "best-random": _best_random,
    "all": _passing_failing,
}

TOLERANCE = 0.02  # largest deviation from 1 of the ratio of matched lengths


@dataclass(frozen=True)
class Pair:
    """A chosen and a rejected answer to prompt number `prompt`; the chosen one has the higher score."""

    prompt: int
    chosen: ScoredAnswer
    rejected: ScoredAnswer

    @property
    def extra_tokens(self) -> int:
        """Tokens by which the chosen answer is longer than the rejected one."""
        return self.chosen.tokens - self.rejected.tokens


@dataclass(frozen=True)
class Selection:
    """How pairs are chosen.

    Args:
        strategy: A key of `STRATEGIES`.
        margin: Least difference of the scores; a pair always has a positive one.
        threshold: Score from which an answer passes.
        max_pairs: Largest number of pairs per prompt.
        match_lengths: Whether chosen and rejected shall be as long on average (`match_lengths`).
    """

    strategy: str = "best-worst"
    margin: float = 0.0
    threshold: float = 1.0
    max_pairs: int = 1
    match_lengths: bool = True

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if self.strategy not in STRATEGIES:
            raise UserError(
                f"strategy must be one of {', '.join(STRATEGIES)}, got {self.strategy!r}; change --strategy"
            )
        if not 0 <= self.margin < float("inf"):
            raise UserError(f"margin must be 0 or more and finite, got {self.margin}; change --margin")
        if self.max_pairs < 1:
            raise UserError(f"max_pairs must be at least 1, got {self.max_pairs}; change --max_pairs")


def select_pairs(
    prompt: int, candidates: Sequence[ScoredAnswer], selection: Selection, random: Random
) -> list[Pair] | Dropped:
    """Choose the pairs of one prompt.

    An answer cut at `max_new_tokens` is never used: as chosen it would teach to stop in the middle of a sentence.
    Among answers of equal text the first stays, and an answer is used at most once, so that no answer outweighs others.

    Returns:
        At least one pair, or why there is none.
    """
    finished = [candidate for candidate in candidates if candidate.finished and candidate.text]
    if len(finished) < 2:
        return Dropped.CUT
    distinct = list({candidate.text: candidate for candidate in reversed(finished)}.values())[::-1]
    if len(distinct) < 2:
        return Dropped.SAME
    ordered = sorted(distinct, key=lambda candidate: -candidate.score)
    pairs: list[Pair] = []
    used: set[str] = set()
    for chosen, rejected in STRATEGIES[selection.strategy](ordered, selection.threshold, random):
        difference = chosen.score - rejected.score
        if difference > 0 and difference >= selection.margin and used.isdisjoint((chosen.text, rejected.text)):
            pairs.append(Pair(prompt, chosen, rejected))
            used |= {chosen.text, rejected.text}
    return pairs[: selection.max_pairs] or Dropped.CONTRAST


def match_lengths(pairs: Sequence[Pair], tolerance: float = TOLERANCE) -> list[Pair]:
    """Leave out the pairs that bend the mean length most, until chosen and rejected are as long on average.

    The condition is |sum of chosen tokens / sum of rejected tokens - 1| <= tolerance. The pair that leaves is the one
    with the largest difference in the direction of the excess, and of equal ones the last: few pairs are lost.

    Args:
        pairs: Any pairs.
        tolerance: Largest deviation of the ratio from 1.

    Returns:
        The pairs that stay, in their order; possibly none.

    Cost: O(n log n).
    """
    order = sorted(range(len(pairs)), key=lambda index: (pairs[index].extra_tokens, -index))
    chosen = sum(pair.chosen.tokens for pair in pairs)
    rejected = sum(pair.rejected.tokens for pair in pairs)
    first, last = 0, len(order)
    while first < last and abs(chosen - rejected) > tolerance * rejected:
        if chosen > rejected:
            last -= 1
            leaving = pairs[order[last]]
        else:
            leaving = pairs[order[first]]
            first += 1
        chosen -= leaving.chosen.tokens
        rejected -= leaving.rejected.tokens
    return [pairs[index] for index in sorted(order[first:last])]
