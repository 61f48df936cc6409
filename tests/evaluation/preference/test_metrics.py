"""Values of pairs, by hand; and a model that learnt nothing but length."""

from __future__ import annotations

import numpy as np
import pytest

from ropo.evaluation.preference.measure import AnswerScores, read_scores

BEFORE = AnswerScores(np.array([[-10.0, -8.0], [-5.0, -9.0], [-6.0, -6.0]]), np.array([[5, 2], [5, 3], [3, 3]]))
AFTER = AnswerScores(np.array([[-7.0, -9.0], [-6.0, -8.0], [-6.0, -6.0]]), np.array([[5, 2], [5, 3], [3, 3]]))
LENGTHS = np.array([[30, 10], [12, 20], [8, 8]])
# gains: chosen 3, -1, 0; rejected -1, 1, 0


def values(by_metric):
    return {name: measured.values.tolist() for name, measured in by_metric.items()}


def test_without_a_reference():
    found = values(read_scores(BEFORE, None, LENGTHS, 0.1))
    assert found["prefers_chosen"] == found["prefers_chosen_when_longer"] == [False, True, False]
    assert found["prefers_chosen_per_token"] == [True, True, False]  # -2 > -4, -1 > -3
    assert found["chosen_log_prob"] == [-10.0, -5.0, -6.0]
    assert found["rejected_log_prob"] == [-8.0, -9.0, -6.0]
    assert not {"accuracy", "margin", "chosen_gain"} & set(found)


def test_against_a_reference():
    by_metric = read_scores(AFTER, BEFORE, LENGTHS, beta=0.5)
    found = values(by_metric)
    assert found["prefers_chosen"] == [True, True, False]
    assert found["margin"] == [2.0, -1.0, 0.0]
    assert found["accuracy"] == [True, False, False]  # a margin of 0 is no preference, as in TRL
    assert (found["chosen_gain"], found["rejected_gain"]) == ([3.0, -1.0, 0.0], [-1.0, 1.0, 0.0])
    assert by_metric["accuracy_when_longer"].kept.tolist() == [True]
    assert by_metric["accuracy_when_shorter"].kept.tolist() == [False]
    assert len(by_metric["accuracy"].kept) == 3


def test_a_model_that_rewards_length_is_exposed():
    lengths = np.random.default_rng(0).integers(5, 100, size=(300, 2))
    tokens = np.maximum(lengths // 4, 1)
    flat = AnswerScores(-2.0 * tokens, tokens)
    hacked = AnswerScores(-2.0 * tokens + 0.1 * lengths, tokens)
    by_metric = read_scores(hacked, flat, lengths, beta=1.0)
    assert by_metric["accuracy"].kept.mean() == pytest.approx(0.5, abs=0.1)
    assert by_metric["accuracy_when_longer"].kept.mean() == 1.0
    assert by_metric["accuracy_when_shorter"].kept.mean() == 0.0
