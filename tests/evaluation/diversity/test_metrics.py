"""Variety by hand, and against leaving each answer out."""

from __future__ import annotations

import numpy as np
import pytest

from ropo.diagnostics.answers import distinct, expectation_adjusted_distinct, self_bleu, words
from ropo.evaluation.diversity.measure import leave_out_undefined
from ropo.evaluation.diversity.metrics import distinct_values, diversity_values, embedding_values
from ropo.evaluation.unit_values import UnitValues, metrics_of
from ropo.lm.sampling.settings import Answer
from tests.tiny.tokenizer import WORDS

GENERATOR = np.random.default_rng(0)
TEXTS = [" ".join(GENERATOR.choice(WORDS, size=GENERATOR.integers(3, 9))) for _ in range(12)]
VOCABULARY = 50


def samples(*texts, finished=True) -> list[Answer]:
    return [Answer(text, (0,) * (len(text.split()) + finished), finished) for text in texts]


def ids_of(groups: list[list[Answer]]) -> list[list[list[int]]]:
    return [[[len(word) for word in answer.text.split()] for answer in group] for group in groups]


def values_of(groups: list[list[Answer]]) -> dict[str, UnitValues]:
    return diversity_values(groups, ids_of(groups), VOCABULARY)


GROUPS = [samples(*TEXTS[start : start + 3]) for start in range(0, 12, 3)]
FIRSTS = TEXTS[::3]


def test_within_a_prompt_is_the_mean_over_prompts():
    by_metric = values_of(GROUPS)
    split = [[words(answer.text) for answer in group] for group in GROUPS]
    for n in (1, 2, 3):
        assert by_metric[f"distinct_{n}"].values.tolist() == [distinct(group, n) for group in split]
    ids = ids_of(GROUPS)
    assert by_metric["ead"].values.tolist() == [expectation_adjusted_distinct(group, VOCABULARY) for group in ids]
    expected = [self_bleu([answer.text for answer in group]) for group in GROUPS]
    assert by_metric["self_bleu"].values.tolist() == pytest.approx(expected)


def test_across_prompts_is_over_first_answers():
    by_metric = values_of(GROUPS)
    split = [words(text) for text in FIRSTS]
    for n in (1, 2, 3):
        assert by_metric[f"distinct_{n}_across"].whole == pytest.approx(distinct(split, n))
    ids = [group[0] for group in ids_of(GROUPS)]
    assert by_metric["ead_across"].whole == pytest.approx(expectation_adjusted_distinct(ids, VOCABULARY))
    assert by_metric["self_bleu_across"].values.mean() == pytest.approx(self_bleu(FIRSTS))


@pytest.mark.parametrize(("n", "vocabulary"), [(1, None), (2, None), (1, VOCABULARY)])
def test_leaving_a_text_out_is_counted_right(n, vocabulary):
    split = [words(text) for text in TEXTS]

    def statistic(texts):
        return distinct(texts, n) if vocabulary is None else expectation_adjusted_distinct(texts, vocabulary)

    found = distinct_values(split, n, "", vocabulary)
    without = [statistic([*split[:i], *split[i + 1 :]]) for i in range(len(split))]
    assert found.whole == pytest.approx(statistic(split))
    expected = [12 * statistic(split) - 11 * value for value in without]
    assert found.values.tolist() == pytest.approx(expected)
    assert len(set(without)) > 3


def test_the_interval_of_distinct_is_as_wide_as_it_should_be_or_a_little_wider():
    """The jackknife's variance is at least the true one on average (Efron and Stein 1981), here within a factor 1.5."""
    generator = np.random.default_rng(1)
    odds = 1 / np.arange(1, 401)
    found = []
    for _ in range(100):
        texts = [generator.choice(400, size=generator.integers(4, 12), p=odds / odds.sum()).tolist() for _ in range(60)]
        found += metrics_of({"d": distinct_values(texts, 1, "")}, "prompts", 0)
    spread = 1.96 * np.std([metric.value for metric in found], ddof=1)
    assert 0.9 < np.mean([metric.high - metric.value for metric in found]) / spread < 1.5


def test_habits():
    groups = [samples("a cat ran", "", finished=False), samples("the dog", "the dog sat on")]
    by_metric = values_of(groups)
    assert by_metric["words"].values.tolist() == [1.5, 3.0]
    assert by_metric["tokens"].values.tolist() == [1.5, 4.0]
    assert by_metric["empty"].values.tolist() == [0.5, 0.0]
    assert by_metric["truncated"].values.tolist() == [1.0, 0.0]
    looping = values_of([samples("no no no no no no", "the dog sat on a mat")])
    assert looping["repetition"].values.tolist() == [pytest.approx((2 / 3) / 2)]


def test_a_model_that_always_says_the_same_is_exposed():
    same = values_of([samples("the cat sat", "the cat sat")] * 6)
    varied = values_of(GROUPS)
    for name in ("distinct_1", "distinct_2", "ead"):
        assert same[name].values.mean() < varied[name].values.mean()
        assert same[f"{name}_across"].whole < varied[f"{name}_across"].whole
    assert same["self_bleu"].values.tolist() == pytest.approx([1.0] * 6)
    assert varied["self_bleu_across"].values.mean() < 0.5


def test_each_letter_counts_where_a_script_has_no_spaces():
    by_metric = values_of([samples("蜜蜂喜欢花", "iPhoneを 買う"), samples("मुझे हिन्दी", "it's well-known")])
    assert by_metric["words"].values.tolist() == [4.5, 2.0]


def embedded(vectors, spoken=None, all_speak=None) -> dict[str, UnitValues]:
    spoken = np.ones(vectors.shape[:2], dtype=bool) if spoken is None else spoken
    return embedding_values(vectors, spoken, spoken[:, 0] if all_speak is None else all_speak)


def test_empty_answers_are_no_variety():
    axes = np.eye(3, dtype=np.float32)
    vectors = np.stack([axes[[0, 0, 1, 1]], axes[[0, 1, 2, 2]], axes[[0, 1, 0, 1]], axes[[2, 2, 2, 2]]])
    spoken = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]], dtype=bool)
    by_metric = embedded(vectors, spoken)
    assert by_metric["embedding_distance"].values.tolist() == pytest.approx([0.0, 1.0, np.nan, np.nan], nan_ok=True)
    across = by_metric["embedding_distance_across"]  # firsts that are there: e0, e0
    assert (across.whole, across.used.tolist()) == (0.0, [True, True, False, False])
    three = embedded(
        vectors[[0, 1, 3, 3]], np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]], dtype=bool)
    )
    (metric,) = metrics_of({"x": three["embedding_distance_across"]}, "prompts", 0)  # e0, e0, e2
    assert (metric.value, metric.count) == (pytest.approx(2 / 3), 3)
    assert three["embedding_distance_across"].kept.tolist() == pytest.approx([3 * 2 / 3 - 2 * 1, 0.0, 2.0])


def test_prompts_where_a_model_is_silent_are_left_out_of_every_models_distance():
    vectors = np.stack([np.eye(3)[[0, 1]], np.eye(3)[[1, 1]], np.eye(3)[[2, 0]]])
    spoken = [np.ones((3, 2), dtype=bool), np.array([[1, 1], [1, 1], [0, 1]], dtype=bool)]
    all_speak = spoken[0][:, 0] & spoken[1][:, 0]
    kept = leave_out_undefined([embedded(vectors, each, all_speak) for each in spoken])
    counts = [[metric.count for metric in metrics_of(each, "prompts", 0)] for each in kept]
    assert counts == [[2, 2], [2, 2]]
    assert kept[0]["embedding_distance_across"].whole == 1.0
    nobody = [embedded(vectors, np.zeros((3, 2), dtype=bool)), embedded(vectors, spoken[0], np.zeros(3, dtype=bool))]
    assert leave_out_undefined(nobody) == [{}, {}]


def test_cosine_distances():
    axes = np.eye(3, dtype=np.float32)
    vectors = np.stack([axes[[0, 0, 0]], axes[[1, 0, 2]], axes[[0, 1, 2]], axes[[0, 1, 1]]])
    by_metric = embedded(vectors)
    assert by_metric["embedding_distance"].values.tolist() == pytest.approx([0.0, 1.0, 1.0, 2 / 3])
    across = by_metric["embedding_distance_across"]  # firsts: e0, e1, e0, e0
    assert across.whole == pytest.approx(0.5)
    without = [2 / 3, 0.0, 2 / 3, 2 / 3]
    assert across.values.tolist() == pytest.approx([4 * 0.5 - 3 * value for value in without])


def test_few_prompts_have_values_but_no_interval():
    (metric,) = metrics_of({"x": embedded(np.eye(4).reshape(2, 2, 4))["embedding_distance_across"]}, "prompts", 0)
    assert (metric.value, metric.low) == (1.0, None)
    (left,) = leave_out_undefined([embedded(np.eye(2)[None])])
    assert set(left) == {"embedding_distance"}
    one = {"x": distinct_values([["a", "b"], []], 1, "")}
    (metric,) = metrics_of(one, "prompts", 0)
    assert (metric.value, metric.low) == (1.0, None)


def test_what_a_prompt_does_not_define_is_left_out_for_all_models():
    ours = {
        "x": UnitValues(np.array([1.0, np.nan, 3.0]), ""),
        "y": UnitValues(np.array([1.0, 2.0, 3.0]), "", whole=2.0),
    }
    theirs = {
        "x": UnitValues(np.array([1.0, 2.0, 5.0]), ""),
        "y": UnitValues(np.array([1.0, np.nan, 3.0]), "", whole=2.0),
    }
    kept = leave_out_undefined([ours, theirs])
    assert [each["x"].kept.tolist() for each in kept] == [[1.0, 3.0], [1.0, 5.0]]
    assert all(each["y"].used is None for each in kept)


def test_a_metric_that_no_prompt_defines_for_all_models_is_left_out():
    empty = values_of([samples("", ""), samples("", "")])
    wordy = values_of([samples("the cat", "a dog"), samples("the cat ran", "yes")])
    gone = {"distinct_1", "distinct_1_across", "ead_across", "self_bleu", "self_bleu_across"}
    assert gone <= set(wordy)
    for models in ([empty], [wordy, empty]):
        for each in leave_out_undefined(models):
            assert not gone & set(each)
            assert all(metric.count == 2 for metric in metrics_of(each, "prompts", 0))
    assert leave_out_undefined([empty])[0]["empty"].values.tolist() == [1.0, 1.0]
