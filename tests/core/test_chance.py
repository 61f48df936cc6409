from __future__ import annotations

import numpy as np
import pytest

from ropo.core.intervals import chance_of_rise


def test_worked_by_hand() -> None:
    assert chance_of_rise(np.array([1.0, 2.0, 3.0])) == 1 / 8  # only + + + reaches 6
    assert chance_of_rise(np.array([1.0, 2.0, -3.0])) == 5 / 8  # sums 6 4 2 0 | 0 -2 -4 -6: five reach 0
    assert chance_of_rise(np.array([-1.0, -2.0, -3.0])) == 1.0
    assert chance_of_rise(np.array([5.0, 0.0, 0.0])) == 1 / 2  # what did not change says nothing
    assert chance_of_rise(np.array([5.0])) == 1 / 2
    assert chance_of_rise(np.array([-5.0])) == 1.0
    assert chance_of_rise(np.zeros(20)) == chance_of_rise(np.array([])) == 1.0


def test_sums_that_differ_by_rounding_count_as_equal() -> None:
    assert chance_of_rise(np.array([0.1, 0.2, 0.3])) == 1 / 8
    assert chance_of_rise(np.array([0.1 + 0.2, 0.3, -0.3])) == 1 / 2  # 0.30000000000000004 is 0.3 here: four of eight


@pytest.mark.parametrize("units", [2, 8, 13])
def test_all_signs_are_tried_where_they_are_few(units: int) -> None:
    changes = np.random.default_rng(units).normal(0.3, 1.0, units)
    signs = 1.0 - 2.0 * ((np.arange(2**units)[:, None] >> np.arange(units)) & 1)
    exact = (signs @ changes >= changes.sum() - 1e-12).mean()
    assert chance_of_rise(changes) == pytest.approx(exact, rel=1e-12)


def test_drawn_signs_come_near_and_are_seeded() -> None:
    changes = np.random.default_rng(1).normal(0.2, 1.0, 16)
    signs = 1.0 - 2.0 * ((np.arange(2**16)[:, None] >> np.arange(16)) & 1)
    exact = (signs @ changes >= changes.sum() - 1e-9).mean()
    found = chance_of_rise(changes)
    assert found == chance_of_rise(changes)
    assert found != chance_of_rise(changes, seed=1)
    assert 0.005 < exact < 0.1
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact / 10_000))
    assert chance_of_rise(np.full(40, 3.0)) == 1 / 10_000


@pytest.mark.parametrize("units", [8, 16])
def test_two_samples_of_one_heavy_tailed_law_seldom_differ(units: int) -> None:
    generator = np.random.default_rng(0)
    lengths = np.minimum(generator.lognormal(3.0, 1.0, (2, 1000, units)).round(), 64)
    found = [chance_of_rise(after - before) for before, after in zip(*lengths, strict=True)]
    for level in (0.01, 0.05, 0.2):
        share = np.mean(np.array(found) <= level)
        assert share <= level + 4 * np.sqrt(level / 1000)
        assert share >= level / 3 - 4 * np.sqrt(level / 1000) / 2  # and it is no test that never rejects
