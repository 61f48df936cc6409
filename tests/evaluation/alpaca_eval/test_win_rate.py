"""The win rate of plain lists and of arrays."""

from __future__ import annotations

import numpy as np
import pytest

from ropo.evaluation.alpaca_eval import standard_error, win_rate


@pytest.mark.parametrize("made", [list, tuple, np.array])
def test_any_sequence_of_preferences(made):
    wins = made([1.0, 0.0, 0.5, 1.0])
    assert win_rate(wins) == 62.5
    assert standard_error(wins) == pytest.approx(100 * np.std([1, 0, 0.5, 1], ddof=1) / 2)
    assert standard_error(made([1.0])) is None
