from __future__ import annotations

from random import Random

import pytest

from ropo.core.errors import UserError
from ropo.diagnostics.answers import (
    distinct,
    expectation_adjusted_distinct,
    is_refusal,
    length_ratio,
    measure_answers,
    repetition,
    self_bleu,
    words,
)
from ropo.lm.sampling.settings import Answer


def answer(text: str, finished: bool = True) -> Answer:
    return Answer(text, tuple(range(len(text.split()))), finished)


def test_words_are_lower_case_with_punctuation_apart() -> None:
    assert words("The cat, it's here!") == ["the", "cat", ",", "it", "'", "s", "here", "!"]


def test_texts_without_spaces_have_words() -> None:
    sentence = "蜜蜂喜欢花"
    again = words(sentence * 40)
    assert repetition(again) > 0.9
    assert distinct([again], 1) == 5 / 200
    assert repetition(words("สวัสดีครับ" * 20)) > 0.9
    assert words("मुझे हिन्दी पसंद है।") == ["मुझे", "हिन्दी", "पसंद", "है", "।"]
    assert 0.2 < self_bleu(["我喜欢蜜蜂和花。", "我喜欢蜜蜂和树。"]) < 1.0


def test_distinct_worked_by_hand() -> None:
    texts = ["abab", "ac"]
    assert distinct(texts, 1) == pytest.approx(3 / 6)
    assert distinct(texts, 2) == pytest.approx(3 / 4)  # ab ba ab | ac
    assert distinct([["a"], []], 2) is None


def test_ngram_shares_against_nltk() -> None:
    util = pytest.importorskip("nltk.util", reason="nltk is not installed: nothing to compare with")
    drawn = Random(0)
    texts = [[drawn.choice("abcd") for _ in range(drawn.randrange(12))] for _ in range(20)]
    for n in (1, 2, 3):
        grams = [gram for tokens in texts for gram in util.ngrams(tokens, n)]
        assert 0.0 < distinct(texts, n) < 1.0
        assert distinct(texts, n) == len(set(grams)) / len(grams)
        for tokens in filter(lambda tokens: len(tokens) >= n, texts):
            own = list(util.ngrams(tokens, n))
            assert repetition(tokens, n) == 1.0 - len(set(own)) / len(own)


def test_expectation_adjusted_distinct_worked_by_hand() -> None:
    # V = 4, C = 3: 4 (1 - (3/4)^3) = 37/16 distinct tokens expected
    assert expectation_adjusted_distinct([[1, 2], [1]], 4) == pytest.approx(2 / (37 / 16))
    assert expectation_adjusted_distinct([[]], 4) is None


def test_repetition_worked_by_hand() -> None:
    assert repetition("abcde") == 0.0
    assert repetition(["a"] * 8) == pytest.approx(1 - 1 / 5)
    assert repetition("abcdabcd") == pytest.approx(1 - 4 / 5)
    assert repetition([]) == repetition(["a", "b"]) == 0.0


def test_self_bleu_of_equal_and_of_unrelated_texts() -> None:
    same = "the quick brown fox jumps over the dog"
    assert self_bleu([same, same, same]) == pytest.approx(1.0)
    assert self_bleu(["one two three four five", "six seven eight nine ten"]) < 0.1
    assert self_bleu(["alone"]) is None
    assert self_bleu(["alone", "  "]) is None


def test_self_bleu_against_nltk() -> None:
    bleu = pytest.importorskip("nltk.translate.bleu_score", reason="nltk is not installed: nothing to compare with")
    texts = [
        "the cat sat on the mat and the dog ran fast today",
        "the cat sat on the mat while the dog ran very fast",
        "a dog ran fast and the cat sat on the mat and slept",
    ]
    split = [text.split() for text in texts]
    scores = [bleu.sentence_bleu([*split[:i], *split[i + 1 :]], hypothesis) for i, hypothesis in enumerate(split)]
    assert len(scores) == 3
    assert all(0.3 < score < 1.0 for score in scores)  # every text shares 4-grams, so smoothing plays no part
    assert self_bleu(texts) == pytest.approx(sum(scores) / 3, rel=1e-9)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("I cannot help with that.", True), ("  I’m sorry, but no.", True), ("Sure! I cannot wait.", False), ("", False)],
)
def test_refusals(text: str, expected: bool) -> None:
    assert is_refusal(text) is expected


def test_answers_worked_by_hand() -> None:
    found = measure_answers([[answer("yes it is"), answer("no", finished=False)], [answer("I cannot"), answer("")]], 10)
    assert (found.answers, found.empty, found.tokens) == (4, 0.25, 1.5)
    assert (found.ended, found.truncated, found.refusals) == (0.75, 0.25, 0.25)
    assert found.distinct_1 == 1.0
    assert found.self_bleu is not None
    assert found.self_bleu_per_prompt is not None  # of the first prompt alone: the second has one text


def test_samples_that_agree_show_per_prompt_only() -> None:
    groups = [[answer(f"{word} {word} {word} one two")] * 2 for word in ("cat", "dog", "fish")]
    found = measure_answers(groups, 10)
    assert found.self_bleu_per_prompt == pytest.approx(1.0)
    assert found.self_bleu < 0.6


def test_empty_generations_have_documented_values() -> None:
    found = measure_answers([[Answer("", (), False)], [Answer("", (), False)]], 10)
    assert (found.empty, found.repetition, found.tokens) == (1.0, 0.0, 0.0)
    assert found.distinct_1 is found.distinct_2 is found.self_bleu is found.expectation_adjusted_distinct is None
    assert length_ratio(found, found) is None
    with pytest.raises(UserError, match="at least one generated answer"):
        measure_answers([], 10)
