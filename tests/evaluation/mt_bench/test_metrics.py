"""What the interval of a score is over."""

from __future__ import annotations

import numpy as np
import pytest

from ropo.evaluation.mt_bench.metrics import mean_of


def test_both_turns_of_a_question_are_drawn_together():
    grades = np.random.default_rng(0).integers(1, 11, size=(40, 1)).astype(float)
    one, both = mean_of(grades, 0), mean_of(np.hstack([grades, grades]), 0)
    assert one.low < one.value < one.high
    assert (both.low, both.high, both.count) == (pytest.approx(one.low), pytest.approx(one.high), 40)
