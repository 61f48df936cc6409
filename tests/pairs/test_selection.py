"""Pairs chosen among the answers to one prompt."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropo.core.errors import UserError
from ropo.pairs import STRATEGIES, Pair, ScoredAnswer, Selection
from ropo.pairs.selection import Dropped, select_pairs


def answers(*scores, finished=True):
    return [ScoredAnswer(f"answer {place}", 5 + place, finished, score) for place, score in enumerate(scores)]


def chosen_scores(candidates, **options):
    pairs = select_pairs(7, candidates, Selection(**options), Random(0))
    assert isinstance(pairs, list)
    assert all(isinstance(pair, Pair) and pair.prompt == 7 for pair in pairs)
    return [(pair.chosen.score, pair.rejected.score) for pair in pairs]


def test_best_against_worst():
    assert chosen_scores(answers(0.5, 1.0, 0.0, 0.7)) == [(1.0, 0.0)]


def test_best_against_random_failing_draws_all_of_them():
    selection = Selection(strategy="best-random", threshold=0.6)
    candidates = answers(0.5, 1.0, 0.0, 0.7)
    drawn = set()
    for seed in range(20):
        pairs = select_pairs(0, candidates, selection, Random(seed))
        drawn.add((pairs[0].chosen.score, pairs[0].rejected.score))
    assert drawn == {(1.0, 0.5), (1.0, 0.0)}


def test_a_best_answer_that_fails_too_is_not_drawn_against_itself_or_its_equals():
    selection = Selection(strategy="best-random", threshold=1.0)
    candidates = answers(0.5, 0.2, 0.0, 0.5)
    drawn = set()
    for seed in range(30):
        pairs = select_pairs(0, candidates, selection, Random(seed))
        assert isinstance(pairs, list)
        drawn.add((pairs[0].chosen.text, pairs[0].rejected.score))
    assert drawn == {("answer 0", 0.2), ("answer 0", 0.0)}


def test_all_passing_against_failing_uses_an_answer_once_and_stops_at_k():
    candidates = answers(1, 0, 1, 0, 1, 0, 0)
    assert chosen_scores(candidates, strategy="all", max_pairs=9) == [(1, 0)] * 3
    assert chosen_scores(candidates, strategy="all", max_pairs=2) == [(1, 0)] * 2
    pairs = select_pairs(0, candidates, Selection(strategy="all", max_pairs=9), Random(0))
    texts = [text for pair in pairs for text in (pair.chosen.text, pair.rejected.text)]
    assert len(set(texts)) == 6


def test_margin():
    assert chosen_scores(answers(0.5, 1.0), margin=0.5) == [(1.0, 0.5)]
    assert select_pairs(0, answers(0.5, 1.0), Selection(margin=0.6), Random(0)) is Dropped.CONTRAST


def test_cut_answers_are_never_used():
    candidates = answers(1.0, finished=False) + answers(0.5, 0.0)
    assert chosen_scores(candidates) == [(0.5, 0.0)]
    assert select_pairs(0, answers(1.0, 0.0, finished=False), Selection(), Random(0)) is Dropped.CUT


def test_equal_answers_count_once():
    same = [ScoredAnswer("yes", 2, True, 1.0)] * 3
    assert select_pairs(0, same, Selection(), Random(0)) is Dropped.SAME
    assert chosen_scores([*same, ScoredAnswer("no", 2, True, 0.0)], strategy="all", max_pairs=3) == [(1.0, 0.0)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_contrast(strategy):
    assert select_pairs(0, answers(0.0, 0.0, 0.0), Selection(strategy), Random(0)) is Dropped.CONTRAST
    assert select_pairs(0, answers(1.0, 1.0, 1.0), Selection(strategy), Random(0)) is Dropped.CONTRAST


@given(st.lists(st.floats(-2, 2), min_size=2, max_size=8), st.sampled_from(sorted(STRATEGIES)), st.floats(0, 1))
def test_chosen_always_beats_rejected_by_the_margin(scores, strategy, margin):
    pairs = select_pairs(0, answers(*scores), Selection(strategy, margin, 0.5, 9), Random(0))
    if isinstance(pairs, list):
        assert pairs
        assert all(pair.chosen.score > pair.rejected.score for pair in pairs)
        assert all(pair.chosen.score - pair.rejected.score >= margin for pair in pairs)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"strategy": "best"}, "strategy"),
        ({"margin": -1.0}, "margin"),
        ({"margin": float("nan")}, "margin"),
        ({"max_pairs": 0}, "max_pairs"),
    ],
)
def test_selection_out_of_range(change, name):
    with pytest.raises(UserError, match=f"^{name} must"):
        Selection(**change)
