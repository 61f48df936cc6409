"""Variety of answers, prompt by prompt and across prompts.

Within a prompt: between the samples of one prompt, averaged over prompts. Across prompts: between the first answers to
different prompts, where a model that answers everything alike shows (Kirk et al. 2024, arXiv 2310.06452). A value that
a prompt does not define (all of its answers are empty, say) is NaN here and left out of every model's mean.
"""

from __future__ import annotations

__all__ = ()

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from jaxtyping import Bool, Float

from ropo.core.words import spaced
from ropo.diagnostics.answers import (
    Tokens,
    distinct,
    expectation_adjusted_distinct,
    ngrams,
    repetition,
    self_bleu,
    self_bleu_scores,
    words,
)
from ropo.evaluation.unit_values import UnitValues, jackknife_values
from ropo.lm.sampling.settings import Answer

_NGRAMS = (1, 2, 3)


def diversity_values(
    groups: Sequence[Sequence[Answer]], ids: Sequence[Sequence[Tokens]], vocabulary: int
) -> dict[str, UnitValues]:
    """Measure the answers to all prompts.

    Args:
        groups: For each prompt its samples, at least two.
        ids: Their texts in the token ids of one tokenizer, for expectation-adjusted distinct.
        vocabulary: Number of tokens of the tokenizer that made the ids.

    Returns:
        The values by the names of their metrics; a unit is a prompt.

    Cost: linear in the text, but for self-BLEU across prompts, which is quadratic in the number of prompts.
    """
    firsts = [group[0] for group in groups]
    first_words = [words(answer.text) for answer in firsts]
    by_metric = {}
    for n in _NGRAMS:
        by_metric[f"distinct_{n}"] = _each(groups, partial(_distinct_of, n=n), _within(f"distinct-{n}"))
        by_metric[f"distinct_{n}_across"] = distinct_values(first_words, n, _across(f"distinct-{n}"))
    adjusted = [expectation_adjusted_distinct(group, vocabulary) for group in ids]
    by_metric["ead"] = UnitValues(_floats(adjusted), _within("expectation-adjusted distinct"))
    first_ids = [group[0] for group in ids]
    by_metric["ead_across"] = distinct_values(first_ids, 1, _across("expectation-adjusted distinct"), vocabulary)
    by_metric["self_bleu"] = _each(groups, lambda group: self_bleu([a.text for a in group]), _within("self-BLEU"))
    scores = self_bleu_scores([answer.text for answer in firsts])
    by_metric["self_bleu_across"] = UnitValues(_floats(scores), _across("self-BLEU"))
    return by_metric | _habits(groups)


def embedding_values(
    vectors: Float[np.ndarray, "prompts samples d"],
    spoken: Bool[np.ndarray, "prompts samples"],
    all_speak: Bool[np.ndarray, " prompts"],
) -> dict[str, UnitValues]:
    """Measure the mean cosine distance, 1 - cos, between answers: within prompts and across their first answers.

    Args:
        vectors: Of length one; those of empty answers are not looked at.
        spoken: Which answers are not empty.
        all_speak: Where no model's first answer is empty: the prompts that every model is measured on across prompts.
    """
    groups = [_distances(group[kept]) for group, kept in zip(vectors, spoken, strict=True)]
    within = _floats([each.sum() / (len(each) * (len(each) - 1)) if len(each) > 1 else None for each in groups])
    return {
        "embedding_distance": UnitValues(within, _within("cosine distance of embeddings")),
        "embedding_distance_across": _across_values(vectors[all_speak, 0], all_speak),
    }


def _across_values(firsts: Float[np.ndarray, "kept d"], used: Bool[np.ndarray, " prompts"]) -> UnitValues:
    """Measure the distance between the first answers of the prompts in use; NaN where there are no two."""
    meaning, distances = _across("cosine distance of embeddings"), _distances(firsts)
    n, total = len(distances), distances.sum()
    values = np.full(len(used), np.nan)
    if n < 2:
        return UnitValues(values, meaning)
    without = (total - 2 * distances.sum(axis=1)) / ((n - 1) * (n - 2)) if n > 2 else np.full(n, np.nan)
    kept = jackknife_values(float(total / (n * (n - 1))), without, meaning)
    if used.all():
        return kept
    values[used] = kept.values
    return replace(kept, values=values, used=used)


def distinct_values(texts: Sequence[Tokens], n: int, meaning: str, vocabulary: int | None = None) -> UnitValues:
    """Measure distinct-n of all texts together, a text a unit; or EAD where a vocabulary is given, at n = 1.

    Without text i there are as many n-grams fewer as it has, and as many distinct ones fewer as occur in it alone.

    Returns:
        The values for the jackknife; NaN where no text has n tokens.
    """
    grams = [Counter(ngrams(text, n)) for text in texts]
    holders: Counter[Hashable] = Counter(gram for text in grams for gram in text)
    own = np.array([sum(holders[gram] == 1 for gram in text) for text in grams], dtype=float)
    sizes = np.array([text.total() for text in grams], dtype=float)
    if not sizes.sum():
        return UnitValues(np.full(len(texts), np.nan), meaning)
    whole = _ratio(np.array([float(len(holders))]), sizes.sum(keepdims=True), vocabulary)
    return jackknife_values(float(whole[0]), _ratio(len(holders) - own, sizes.sum() - sizes, vocabulary), meaning)


def _ratio(
    unique: Float[np.ndarray, " n"], total: Float[np.ndarray, " n"], vocabulary: int | None
) -> Float[np.ndarray, " n"]:
    expected = total if vocabulary is None else vocabulary * (1.0 - ((vocabulary - 1) / vocabulary) ** total)
    return np.divide(unique, expected, out=np.full(len(unique), np.nan), where=expected > 0)


def _habits(groups: Sequence[Sequence[Answer]]) -> dict[str, UnitValues]:
    """Measure length, repetition and endings: for each prompt the mean over its samples."""
    return {
        "tokens": _mean(
            groups, lambda answer: len(answer.tokens), "length in tokens, the end-of-sequence token included"
        ),
        "words": _mean(groups, lambda answer: len(spaced(answer.text).split()), "length in words"),
        "repetition": _mean(
            groups, lambda answer: repetition(words(answer.text)), "share of repeated 4-grams of words"
        ),
        "empty": _mean(groups, lambda answer: not answer.text.strip(), "share of answers without a word"),
        "truncated": _mean(groups, lambda answer: not answer.finished, "share of answers cut at the longest length"),
    }


def _mean(groups: Sequence[Sequence[Answer]], measure: Callable[[Answer], float], meaning: str) -> UnitValues:
    return UnitValues(np.array([np.mean([float(measure(a)) for a in group]) for group in groups]), f"mean {meaning}")


def _distinct_of(group: Sequence[Answer], n: int) -> float | None:
    return distinct([words(answer.text) for answer in group], n)


def _each(
    groups: Sequence[Sequence[Answer]], measure: Callable[[Sequence[Answer]], float | None], meaning: str
) -> UnitValues:
    return UnitValues(_floats([measure(group) for group in groups]), meaning)


def _floats(values: Sequence[float | None]) -> Float[np.ndarray, " n"]:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _distances(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n n"]:
    distances = 1.0 - vectors.astype(float) @ vectors.astype(float).T
    np.fill_diagonal(distances, 0.0)
    return distances


def _within(what: str) -> str:
    return f"{what} of the samples of one prompt, mean over prompts"


def _across(what: str) -> str:
    return f"{what} of the first answers to different prompts"
