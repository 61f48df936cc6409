"""What is said of a judge that looks at nothing but length."""

from __future__ import annotations

import numpy as np
import pytest

from ropo.evaluation.alpaca_eval.metrics import Judged, Verdicts, follows_length, metrics_for, notes_on
from ropo.judging.judge import OrderCheck

NOBODY = OrderCheck(np.zeros(0, dtype=bool), np.zeros(0), 0)


def judged(longer: int, shorter: int, wins_longer: float, wins_shorter: float, equal: int = 0) -> Judged:
    wins = np.array([wins_longer] * longer + [wins_shorter] * shorter + [0.5] * equal)
    lengths = np.array([12] * longer + [8] * shorter + [10] * equal)
    verdicts = Verdicts(wins, np.zeros(len(wins), dtype=bool), {}, NOBODY, 0)
    return Judged(verdicts, lengths, np.full(len(wins), 10), None)


@pytest.mark.parametrize(
    ("case", "follows"),
    [
        (judged(10, 10, 1.0, 0.0), True),
        (judged(10, 500, 0.95, 0.05, equal=7), True),
        (judged(9, 500, 1.0, 0.0), False),  # too few to tell
        (judged(500, 9, 1.0, 0.0), False),
        (judged(300, 300, 0.8, 0.05), False),  # a taste for length, but not only that
        (judged(300, 300, 0.95, 0.2), False),
        (judged(300, 300, 0.0, 0.0), False),  # a weak model
        (judged(300, 300, 0.0, 1.0), False),  # a taste for brevity
    ],
)
def test_only_a_judge_that_follows_length_is_called_so(case, follows):
    assert follows_length(case) == follows
    said = [note for note in notes_on({"m": case}, "r") if "prefers the longer output almost always" in note]
    assert len(said) == follows


def test_win_rates_by_length_are_over_their_own_prompts():
    found = {metric.name: metric for metric in metrics_for(judged(30, 20, 0.75, 0.25, equal=10), 0)}
    longer, shorter = found["win_rate_when_longer"], found["win_rate_when_shorter"]
    assert (longer.value, longer.count) == (75.0, 30)
    assert (shorter.value, shorter.count) == (25.0, 20)
    assert found["win_rate"].count == 60


def test_no_longer_output_has_no_rate():
    found = {metric.name: metric for metric in metrics_for(judged(0, 20, 1.0, 0.25), 0)}
    longer = found["win_rate_when_longer"]
    assert (longer.value, longer.low, longer.high, longer.count) == (None, None, None, 0)
