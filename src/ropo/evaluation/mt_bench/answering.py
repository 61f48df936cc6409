"""A model's answers to both turns of every question."""

from __future__ import annotations

__all__ = ()

from collections.abc import Callable, Sequence

from ropo.evaluation.answers import answer_prompts
from ropo.evaluation.contestants import Contestant
from ropo.evaluation.mt_bench.questions import TURNS, Answers, Question
from ropo.evaluation.suites import Workplace
from ropo.lm.sampling import PromptRecord, Sampler, SamplingSettings


def answer_questions(
    contestant: Contestant,
    questions: Sequence[Question],
    max_new_tokens: int,
    workplace: Workplace,
    advance: Callable[[int], None],
) -> Answers:
    """Answer turn after turn, each question at its category's temperature.

    Args:
        contestant: The model.
        questions: What to answer.
        max_new_tokens: Longest answer of a turn.
        workplace: Cache, seed and batch size.
        advance: Called with the number of answers just given; for a progress bar.

    Returns:
        The texts of both turns of each question.

    Cost: two answers per question, and one loading of the model; questions of one temperature share batches.
    """
    answers: Answers = {question.number: [] for question in questions}
    with Sampler(contestant.source) as sampler:
        for turn in range(TURNS):
            for temperature in sorted({question.temperature for question in questions}):
                group = [question for question in questions if question.temperature == temperature]
                found = answer_prompts(
                    contestant,
                    [_prompt(question, answers[question.number]) for question in group],
                    SamplingSettings(
                        temperature=temperature, max_new_tokens=max_new_tokens, seed=workplace.seed + turn
                    ),
                    workplace.batch_size,
                    workplace.cache,
                    lambda batch: advance(len(batch.prompts)),
                    sampler,
                )
                for question, (answer,) in zip(group, found, strict=True):
                    answers[question.number].append(answer.text)
    return answers


def _prompt(question: Question, answered: Sequence[str]) -> PromptRecord:
    """Return the conversation up to the user's next turn."""
    turns = []
    for place in range(len(answered) + 1):
        turns.append({"role": "user", "content": question.turns[place]})
        if place < len(answered):
            turns.append({"role": "assistant", "content": answered[place]})
    return PromptRecord({}, turns, question.number)
