"""Measure a set of generated answers, alone and against the reference's."""

from __future__ import annotations

__all__ = ["AnswerMeasure", "measure_answers"]

from collections.abc import Sequence

from ropo.core.errors import UserError
from ropo.diagnostics.measure import Measure, mean
from ropo.diagnostics.text import distinct, expectation_adjusted_distinct, is_refusal, repetition, self_bleu, words
from ropo.lm.answer import Answer


class AnswerMeasure(Measure):
    """Summarise generated answers; what no answer defines (all are empty, say) is None.

    Attributes:
        answers: Number of answers.
        empty: Share of answers without a word.
        tokens: Mean length in tokens, the end-of-sequence token included.
        ended: Share of answers that the model ended with an end-of-sequence token.
        truncated: Share cut at the longest length.
        distinct_1: See `ropo.diagnostics.text.distinct`; on words.
        distinct_2: The same of pairs of words.
        expectation_adjusted_distinct: See there; on the model's tokens.
        self_bleu: Between the first answers to different prompts.
        self_bleu_per_prompt: Between the samples of one prompt, mean over prompts; None with one sample per prompt.
        repetition: Mean share of repeated 4-grams of words within an answer.
        refusals: Share of answers that open like a refusal.
        tokens_by_prompt: Mean length of each prompt's samples; prompts without one are left out.
        repetition_by_prompt: The same of `repetition`.
    """

    answers: int
    empty: float
    tokens: float
    ended: float
    truncated: float
    distinct_1: float | None
    distinct_2: float | None
    expectation_adjusted_distinct: float | None
    self_bleu: float | None
    self_bleu_per_prompt: float | None
    repetition: float
    refusals: float
    tokens_by_prompt: list[float]
    repetition_by_prompt: list[float]


def measure_answers(samples: Sequence[Sequence[Answer]], vocabulary: int) -> AnswerMeasure:
    """Measure the answers to a fixed set of prompts.

    Args:
        samples: For each prompt its samples, at least one in all.
        vocabulary: Number of tokens of the model's vocabulary.

    Returns:
        The summary.

    Raises:
        UserError: If there is no answer.

    Cost: linear in the text, but for self-BLEU, which is quadratic in the number of answers.
    """
    answers = [answer for group in samples for answer in group]
    if not answers:
        raise UserError("answers: need at least one generated answer, got none; give prompts")
    texts = [words(answer.text) for answer in answers]
    asked = [group for group in samples if group]
    per_prompt = [self_bleu([answer.text for answer in group]) for group in samples]
    defined = [value for value in per_prompt if value is not None]
    ended = mean([answer.finished for answer in answers])
    return AnswerMeasure(
        answers=len(answers),
        empty=mean([not text for text in texts]),
        tokens=mean([len(answer.tokens) for answer in answers]),
        ended=ended,
        truncated=1.0 - ended,
        distinct_1=distinct(texts, 1),
        distinct_2=distinct(texts, 2),
        expectation_adjusted_distinct=expectation_adjusted_distinct([a.tokens for a in answers], vocabulary),
        self_bleu=self_bleu([group[0].text for group in asked]),
        self_bleu_per_prompt=mean(defined) if defined else None,
        repetition=mean([repetition(text) for text in texts]),
        refusals=mean([is_refusal(answer.text) for answer in answers]),
        tokens_by_prompt=[mean([len(answer.tokens) for answer in group]) for group in asked],
        repetition_by_prompt=[mean([repetition(words(answer.text)) for answer in group]) for group in asked],
    )


def length_ratio(answers: AnswerMeasure, reference: AnswerMeasure) -> float | None:
    """Return the mean answer length over the reference's; None where the reference generated nothing."""
    return answers.tokens / reference.tokens if reference.tokens else None
