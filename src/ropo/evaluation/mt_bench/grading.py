"""Grades from 1 to 10, and comparisons in both orders, of the answers to every question and turn."""

from __future__ import annotations

__all__ = ()

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from ropo.evaluation.mt_bench.benchmark import JudgePrompts
from ropo.evaluation.mt_bench.questions import TURNS, Answers, Question
from ropo.judging.chat import ChatJudge, Reply, grade_in
from ropo.judging.judge import OrderCheck, check_orders, count_read
from ropo.judging.reading import TEXT, read_letter

_SECOND_WINS = {"A": 0.0, "B": 1.0, "C": 0.5}


@dataclass(frozen=True)
class Grades:
    """What a judge made of a model's answers.

    Args:
        values: A number for each question and turn, NaN without a verdict.
        read: What verdicts were read from, and why there is none, with counts.
        verdicts: What the judge said, one record per verdict.
        orders: What both orders of a comparison gave; None for single grades.
    """

    values: Float[np.ndarray, "questions turns"]
    read: dict[str, int]
    verdicts: list[dict[str, Any]]
    orders: OrderCheck | None = None

    @property
    def reasons(self) -> dict[str, int]:
        """Why there is no number, with counts."""
        return {why: count for why, count in self.read.items() if why != TEXT}


def grade(
    judge: ChatJudge,
    prompts: JudgePrompts,
    questions: Sequence[Question],
    answers: Answers,
    references: Answers,
    advance: Callable[[int], None] = lambda verdicts: None,
) -> Grades:
    """Have each answer graded from 1 to 10, the second one in the light of the first."""
    places = [(question, turn) for question in questions for turn in range(1, TURNS + 1)]
    asked = [
        prompts.single(question, turn, answers[question.number], references.get(question.number, []))
        for question, turn in places
    ]
    found = judge.ask(asked, grade_in, advance)
    verdicts = [
        {
            "question_id": question.number,
            "turn": turn,
            "score": verdict.value,
            "reason": verdict.reason,
            "judgment": verdict.said,
        }
        for (question, turn), verdict in zip(places, found, strict=True)
    ]
    return Grades(_table([verdict.value for verdict in found]), count_read(found), verdicts)


def grade_pairs(
    judge: ChatJudge,
    prompts: JudgePrompts,
    questions: Sequence[Question],
    answers: Answers,
    others: Answers,
    references: Answers,
    advance: Callable[[int], None] = lambda verdicts: None,
) -> Grades:
    """Have a model's answers compared with another's, each pair in both orders.

    A win or a loss counts only if both orders say so, and everything else is a tie (Zheng et al. 2023, section 3.4).

    Returns:
        1 for a win, 0.5 for a tie, 0 for a loss.
    """
    places = [(question, turn) for question in questions for turn in range(1, TURNS + 1)]
    asked = [
        prompts.pair(question, turn, *shown, references.get(question.number, []))
        for question, turn in places
        for shown in _both_orders(answers[question.number], others[question.number])
    ]
    found = judge.ask(asked, _winner_in, advance)
    last, first = found[::2], found[1::2]  # where the model stands
    values = [_outcome(one.value, other.value) for one, other in zip(last, first, strict=True)]
    verdicts = [
        {"question_id": question.number, "turn": turn, "outcome": value, "judgments": [one.said, other.said]}
        for (question, turn), value, one, other in zip(places, values, last, first, strict=True)
    ]
    return Grades(_table(values), count_read(found), verdicts, check_orders(last, first))


def _outcome(shown_last: float | None, other_last: float | None) -> float | None:
    """Return 1 where the model wins in both places, 0 where it loses in both, 0.5 otherwise; None without both."""
    if shown_last is None or other_last is None:
        return None
    return {(1.0, 0.0): 1.0, (0.0, 1.0): 0.0}.get((shown_last, other_last), 0.5)


def _both_orders(model: Sequence[str], other: Sequence[str]) -> tuple[tuple[Sequence[str], Sequence[str]], ...]:
    return (other, model), (model, other)


def _winner_in(reply: Reply) -> tuple[float, str] | None:
    """Return the probability that the second answer wins: FastChat asks for `[[A]]`, `[[B]]`, or `[[C]]` for a tie."""
    letter = read_letter(reply.text, "ABC", reply.cut)
    return None if letter is None else (_SECOND_WINS[letter], TEXT)


def _table(values: Sequence[float | None]) -> Float[np.ndarray, "questions turns"]:
    return np.array([np.nan if value is None else value for value in values], dtype=float).reshape(-1, TURNS)
