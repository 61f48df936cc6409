"""Variety and habits of generated answers, and the measures of a set of them."""

from __future__ import annotations

__all__ = [
    "AnswerMeasure",
    "Tokens",
    "distinct",
    "expectation_adjusted_distinct",
    "mean",
    "measure_answers",
    "ngrams",
    "repetition",
    "self_bleu",
    "self_bleu_scores",
    "words",
]

from collections.abc import Hashable, Sequence

from ropo.core.errors import UserError
from ropo.core.record import Measure
from ropo.core.words import spaced, words_and_marks
from ropo.lm.sampling.settings import Answer

# How the openings of refusals by current chat models begin, in lower case. A list finds only what is on it, so the
# rate is a lower bound, meant for comparing one model with its reference.
_REFUSALS = (
    "i can't",
    "i cannot",
    "i can not",
    "i'm sorry",
    "i am sorry",
    "sorry, ",
    "i won't",
    "i will not",
    "i'm unable",
    "i am unable",
    "i'm not able",
    "i am not able",
    "i must decline",
    "as an ai",
)

Tokens = Sequence[Hashable]


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean of at least one value."""
    return sum(values) / len(values)


def words(text: str) -> list[str]:
    """Split a text into lower-case words and punctuation marks; see `ropo.core.words`."""
    return words_and_marks(text.lower())


def ngrams(tokens: Tokens, n: int) -> list[tuple[Hashable, ...]]:
    """Return the n-grams of a sequence in order."""
    return list(zip(*(tokens[start:] for start in range(n)), strict=False))


def distinct(texts: Sequence[Tokens], n: int) -> float | None:
    """Compute distinct-n: unique n-grams over all n-grams of all texts together.

    Li et al. 2016, arXiv 1510.03055. It falls with the amount of text, so compare equal amounts, or use
    `expectation_adjusted_distinct`.

    Args:
        texts: Tokenised texts.
        n: Length of the n-grams.

    Returns:
        A share in (0, 1], or None when no text has n tokens.
    """
    grams = [gram for tokens in texts for gram in ngrams(tokens, n)]
    return len(set(grams)) / len(grams) if grams else None


def expectation_adjusted_distinct(texts: Sequence[Tokens], vocabulary: int) -> float | None:
    """Compute EAD: distinct tokens over the number expected from uniform draws.

    EAD = N / (V (1 - ((V - 1) / V)^C)), N distinct among C tokens, V the vocabulary's size
    (Liu et al. 2022, arXiv 2202.13587). Unlike distinct-1 it does not fall merely because texts are long.

    Args:
        texts: Texts as tokens of a vocabulary.
        vocabulary: Number of tokens in it.

    Returns:
        The ratio, 1 for uniform draws in expectation; None when there is no token.
    """
    tokens = [token for text in texts for token in text]
    if not tokens:
        return None
    expected = vocabulary * (1.0 - ((vocabulary - 1) / vocabulary) ** len(tokens))
    return len(set(tokens)) / expected


def self_bleu(texts: Sequence[str]) -> float | None:
    """Compute self-BLEU: the mean BLEU of each text against all the others as references, in [0, 1].

    Zhu et al. 2018 (Texygen), arXiv 1802.01886; sentence BLEU-4 by sacrebleu (13a tokens, exponential smoothing,
    effective order), whose words are parted by spaces: in scripts without them each letter is one. High: the texts
    repeat each other.

    Args:
        texts: Texts; empty ones are left out.

    Returns:
        The mean, or None for fewer than two texts that are not empty.

    Cost: quadratic in the number of texts.
    """
    scores = [score for score in self_bleu_scores(texts) if score is not None]
    return mean(scores) if scores else None


def self_bleu_scores(texts: Sequence[str]) -> list[float | None]:
    """Compute the BLEU of each text against all the others, in [0, 1]; see `self_bleu`.

    Args:
        texts: Texts; empty ones are no references.

    Returns:
        One score per text; None for an empty text, and for all where fewer than two are not empty.
    """
    from sacrebleu.metrics import BLEU  # here, because it is slow to import and seldom needed

    full = [i for i, text in enumerate(texts) if text.strip()]
    scores: list[float | None] = [None] * len(texts)
    if len(full) < 2:
        return scores
    bleu, parted = BLEU(effective_order=True), [spaced(text) for text in texts]
    for i in full:
        scores[i] = bleu.sentence_score(parted[i], [parted[other] for other in full if other != i]).score / 100.0
    return scores


def repetition(tokens: Tokens, n: int = 4) -> float:
    """Compute the share of repeated n-grams within one text: 1 - unique / all.

    seq-rep-n of Welleck et al. 2020, arXiv 1908.04319.

    Args:
        tokens: One tokenised text.
        n: Length of the n-grams.

    Returns:
        A share in [0, 1); 0 for a text shorter than n tokens, which repeats nothing.
    """
    grams = ngrams(tokens, n)
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def is_refusal(text: str) -> bool:
    """Tell whether an answer opens like a refusal (see `_REFUSALS`)."""
    return text.strip().lower().replace("’", "'").startswith(_REFUSALS)


class AnswerMeasure(Measure):
    """Summarise generated answers; what no answer defines (all are empty, say) is None.

    Attributes:
        answers: Number of answers.
        empty: Share of answers without a word.
        tokens: Mean length in tokens, the end-of-sequence token included.
        ended: Share of answers that the model ended with an end-of-sequence token.
        truncated: Share cut at the longest length.
        distinct_1: See `ropo.diagnostics.answers.distinct`; on words.
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
