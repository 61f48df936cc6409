"""Grades from 1 to 10, and comparisons in both orders, of the answers to every question and turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from ropo.evaluation.mt_bench.prompts import JudgePrompts
from ropo.evaluation.mt_bench.questions import TURNS, Answers, Question
from ropo.judging.chat import ChatModel, Failure, Meter, Reply
from ropo.judging.pairwise import Preference, unread
from ropo.judging.position import OrderCheck, check_orders
from ropo.judging.reading import read_letter, read_rating
from ropo.judging.verdicts import VerdictStore, ask_and_keep

SECOND_WINS = {"A": 0.0, "B": 1.0, "C": 0.5}


@dataclass(frozen=True)
class Judge:
    """Hold a chat model, its prompts, where its verdicts are kept, and the count of what it was asked."""

    chat: ChatModel
    prompts: JudgePrompts
    store: VerdictStore
    meter: Meter


@dataclass(frozen=True)
class Grades:
    """Hold what a judge made of a model's answers.

    Args:
        values: A number for each question and turn, NaN without a verdict.
        reasons: Why there is none, with counts.
        verdicts: What the judge said, one record a verdict.
        orders: What both orders of a comparison gave; None for single grades.
    """

    values: Float[np.ndarray, "questions turns"]
    reasons: dict[str, int]
    verdicts: list[dict[str, Any]]
    orders: OrderCheck | None = None


def grade(
    judge: Judge,
    questions: Sequence[Question],
    answers: Answers,
    references: Answers,
    advance: Callable[[int], None] = lambda verdicts: None,
) -> Grades:
    """Have each answer graded from 1 to 10, the second one in the light of the first.

    Args:
        judge: Who grades.
        questions: What was asked.
        answers: The model's.
        references: Reference answers to the guided questions.
        advance: Called with the number of verdicts just given; for a progress bar.
    """
    places = [(question, turn) for question in questions for turn in range(1, TURNS + 1)]
    asked = [
        judge.prompts.single(question, turn, answers[question.number], references.get(question.number, []))
        for question, turn in places
    ]
    replies = ask_and_keep(judge.chat, asked, judge.store, judge.meter, advance)
    values = [_read(reply, read_rating, judge.meter) for reply in replies]
    verdicts = [
        {"question_id": question.number, "turn": turn, "score": value, "reason": reason, "judgment": _text(reply)}
        for (question, turn), (value, reason), reply in zip(places, values, replies, strict=True)
    ]
    return Grades(_table([value for value, _ in values]), _count(reason for _, reason in values), verdicts)


def compare(
    judge: Judge,
    questions: Sequence[Question],
    answers: Answers,
    others: Answers,
    references: Answers,
    advance: Callable[[int], None] = lambda verdicts: None,
) -> Grades:
    """Have a model's answers compared with another's, each pair in both orders.

    A win or a loss counts only if both orders say so, and everything else is a tie (Zheng et al. 2023, section 3.4).

    Args:
        judge: Who compares.
        questions: What was asked.
        answers: The model's.
        others: The other model's.
        references: Reference answers to the guided questions.
        advance: Called with the number of verdicts just given; for a progress bar.

    Returns:
        1 for a win, 0.5 for a tie, 0 for a loss.
    """
    places = [(question, turn) for question in questions for turn in range(1, TURNS + 1)]
    asked = [
        judge.prompts.pair(question, turn, *shown, references.get(question.number, []))
        for question, turn in places
        for shown in _both_orders(answers[question.number], others[question.number])
    ]
    replies = ask_and_keep(judge.chat, asked, judge.store, judge.meter, advance)
    read = [_read(reply, _read_winner, judge.meter) for reply in replies]
    last, first = read[::2], read[1::2]  # where the model stands
    values: list[float | None] = []
    for (second_wins, _), (other_wins, _) in zip(last, first, strict=True):
        values.append(None if second_wins is None or other_wins is None else _outcome(second_wins, other_wins))
    verdicts = [
        {
            "question_id": question.number,
            "turn": turn,
            "outcome": value,
            "judgments": [_text(replies[2 * number]), _text(replies[2 * number + 1])],
        }
        for number, ((question, turn), value) in enumerate(zip(places, values, strict=True))
    ]
    orders = check_orders([Preference(value) for value, _ in last], [Preference(value) for value, _ in first])
    return Grades(_table(values), _count(reason for _, reason in read), verdicts, orders)


def _outcome(shown_last: float, other_last: float) -> float:
    """Return 1 where the model wins in both places, 0 where it loses in both, and 0.5 otherwise."""
    return {(1.0, 0.0): 1.0, (0.0, 1.0): 0.0}.get((shown_last, other_last), 0.5)


def _both_orders(model: Sequence[str], other: Sequence[str]) -> tuple[tuple[Sequence[str], Sequence[str]], ...]:
    return (other, model), (model, other)


def _read(
    reply: Reply | Failure, read: Callable[[str, bool], float | None], meter: Meter
) -> tuple[float | None, str | None]:
    if isinstance(reply, Failure):
        return None, reply.reason
    value = read(reply.text, reply.cut)
    if value is None:
        meter.count_failure(unread(reply))
        return None, unread(reply)
    return value, None


def _read_winner(text: str, cut: bool) -> float | None:
    """Return the probability that the second answer wins: FastChat asks for `[[A]]`, `[[B]]`, or `[[C]]` for a tie."""
    letter = read_letter(text, "ABC", cut)
    return None if letter is None else SECOND_WINS[letter]


def _table(values: Sequence[float | None]) -> Float[np.ndarray, "questions turns"]:
    return np.array([np.nan if value is None else value for value in values], dtype=float).reshape(-1, TURNS)


def _count(found: Any) -> dict[str, int]:
    return dict(sorted(Counter(reason for reason in found if reason is not None).items()))


def _text(reply: Reply | Failure) -> str | None:
    return reply.text if isinstance(reply, Reply) else None
