"""The bootstrap draws what its definition says, however it is cut into blocks."""

from __future__ import annotations

import numpy as np
import pytest

from ropo.core import bootstrap
from ropo.core.bootstrap import RESAMPLES, bootstrap_interval, bootstrap_rows

VALUES = np.random.default_rng(1).normal(size=40)


@pytest.mark.parametrize("block", [1_000_000, 40 * 7])  # all at once; the last block is shorter
def test_the_interval_is_that_of_resampled_means(monkeypatch, block):
    monkeypatch.setattr(bootstrap, "BLOCK", block)
    generator = np.random.default_rng(3)
    means = [generator.choice(VALUES, size=40).mean() for _ in range(RESAMPLES)]
    assert bootstrap_interval(VALUES, level=0.9, seed=3) == pytest.approx(tuple(np.quantile(means, [0.05, 0.95])))


def test_rows_are_drawn_with_replacement_from_all_units():
    rows = np.array(list(bootstrap_rows(5, 200, np.random.default_rng(0))))
    assert rows.shape == (200, 5)
    assert set(rows.flatten()) == set(range(5))
    assert any(len(set(row)) < 5 for row in rows)
