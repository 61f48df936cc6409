"""Length matching."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ropo.pairs import Pair, ScoredAnswer
from ropo.pairs.selection import match_lengths


def pairs_of(*lengths):
    return [
        Pair(number, ScoredAnswer("c", chosen, True, 1.0), ScoredAnswer("r", rejected, True, 0.0))
        for number, (chosen, rejected) in enumerate(lengths)
    ]


def length_ratio(pairs) -> float:
    return sum(pair.chosen.tokens for pair in pairs) / sum(pair.rejected.tokens for pair in pairs)


def test_nothing_leaves_where_lengths_match():
    pairs = pairs_of((10, 30), (30, 10), (7, 7))
    assert match_lengths(pairs) == pairs
    assert length_ratio(pairs) == 1


def test_the_pair_that_bends_most_leaves_first():
    pairs = pairs_of((20, 20), (90, 10), (21, 20), (20, 21))
    assert match_lengths(pairs) == [pairs[0], pairs[2], pairs[3]]
    turned = pairs_of((20, 20), (10, 90), (21, 20), (20, 21))
    assert match_lengths(turned) == [turned[0], turned[2], turned[3]]


def test_nothing_is_left_where_no_subset_matches():
    assert match_lengths(pairs_of((2, 1), (20, 10))) == []


@given(st.lists(st.tuples(st.integers(1, 99), st.integers(1, 99)), max_size=40), st.floats(0, 0.3))
def test_what_stays_is_within_the_tolerance_and_in_order(lengths, tolerance):
    kept = match_lengths(pairs_of(*lengths), tolerance)
    assert [pair.prompt for pair in kept] == sorted(pair.prompt for pair in kept)
    if kept:
        assert abs(length_ratio(kept) - 1) <= tolerance + 1e-12  # the rounding of the division
