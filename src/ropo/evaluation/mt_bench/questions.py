"""Questions, reference answers and models' answers in FastChat's JSON Lines."""

from __future__ import annotations

__all__ = ()

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ropo.core.errors import UserError
from ropo.core.files import write_atomically
from ropo.core.json_lines import read_json_lines

TURNS = 2
# Zheng et al. 2023 (arXiv 2306.05685): a judge grades these against a reference answer, as it errs in them itself.
_GUIDED = ("math", "reasoning", "coding")
# The temperature at which models answer; other categories take the last.
_TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
_OTHER_TEMPERATURE = 0.7

Answers = dict[int, list[str]]  # question id: the text of each turn


@dataclass(frozen=True)
class Question:
    """A question: its number in the benchmark, category, and the user's two turns."""

    number: int
    category: str
    turns: tuple[str, ...]

    @property
    def guided(self) -> bool:
        """Whether it is judged against a reference answer."""
        return self.category in _GUIDED

    @property
    def temperature(self) -> float:
        """The temperature at which models answer it."""
        return _TEMPERATURES.get(self.category, _OTHER_TEMPERATURE)


def read_questions(path: Path, limit: int | None = None) -> list[Question]:
    """Read questions.

    Args:
        path: JSON Lines with `question_id`, `category` and two `turns`.
        limit: How many to take, one of every category in turn; all where None.

    Raises:
        UserError: If the file is missing or empty, or a line lacks a field; names the line.
    """
    questions: dict[int, Question] = {}
    for line, record in read_json_lines("questions", path):
        where = f"questions {path}:{line}"
        number, category, turns = (record.get(field) for field in ("question_id", "category", "turns"))
        if not isinstance(number, int) or isinstance(number, bool):
            raise UserError(f"{where}: `question_id` must be a whole number, got {json.dumps(number)[:40]}; mend it")
        if not isinstance(category, str) or not category:
            raise UserError(f"{where}: `category` must be a text, got {json.dumps(category)[:40]}; mend it")
        if not isinstance(turns, list) or not _is_turns(turns):
            raise UserError(f"{where}: `turns` must be {TURNS} non-empty texts, got {json.dumps(turns)[:60]}; mend it")
        if number in questions:
            raise UserError(f"{where}: question_id {number} stands further up already; drop one of the two")
        questions[number] = Question(number, category, tuple(turns))
    return _spread(list(questions.values()), limit)


def read_answers(path: Path, questions: Sequence[Question], use: str) -> Answers:
    """Read one answer per question: a model's, or the reference's.

    Args:
        path: JSON Lines with `question_id` and `choices`, the first of which has two `turns`.
        questions: The questions that need one.
        use: What the answers are, for errors.

    Raises:
        UserError: If the file is missing, a line is malformed, or a question has no answer.
    """
    answers: Answers = {}
    for line, record in read_json_lines(use, path):
        try:
            turns = record["choices"][0]["turns"]
        except (KeyError, IndexError, TypeError):
            turns = None
        if not isinstance(record.get("question_id"), int) or not _is_turns(turns, empty=True):
            raise UserError(
                f"{use} {path}:{line}: needs `question_id` and `choices` with {TURNS} `turns`, as FastChat writes; "
                "mend it"
            )
        answers[record["question_id"]] = list(turns)
    missing = [question.number for question in questions if question.number not in answers]
    if missing:
        raise UserError(
            f"{use} {path}: lack {len(missing)} of {len(questions)} questions, the first question_id {missing[0]}; "
            "add them"
        )
    return {question.number: answers[question.number] for question in questions}


def write_answers(path: Path, model: str, questions: Sequence[Question], answers: Mapping[int, Sequence[str]]) -> None:
    """Write a model's answers as FastChat reads them."""
    lines = [
        {
            "question_id": question.number,
            "model_id": model,
            "choices": [{"index": 0, "turns": list(answers[question.number])}],
        }
        for question in questions
    ]
    write_atomically(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def is_answers_file(source: str) -> bool:
    """Tell whether a model on the command line is a file of its answers."""
    return source.endswith(".jsonl") and Path(source).is_file()


def _is_turns(turns: Any, empty: bool = False) -> bool:
    return (
        isinstance(turns, list)
        and len(turns) == TURNS
        and all(isinstance(turn, str) and (empty or turn.strip()) for turn in turns)
    )


def _spread(questions: list[Question], limit: int | None) -> list[Question]:
    """Take one question of every category in turn, then put them back in the order of the file."""
    if limit is None or limit >= len(questions):
        return questions
    categories: dict[str, list[Question]] = {}
    for question in questions:
        categories.setdefault(question.category, []).append(question)
    rounds = (each for group in zip_longest(*categories.values()) for each in group if each is not None)
    taken = {question.number for question, _ in zip(rounds, range(limit), strict=False)}
    return [question for question in questions if question.number in taken]
