"""Intervals and tests against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_1samp
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from ropo.core.intervals import (
    RESAMPLES,
    bootstrap_interval,
    jackknife_interval,
    mean_interval,
    paired_difference,
    paired_shares,
    share_interval,
    statistic_interval,
)

GENERATOR = np.random.default_rng(0)
VALUES = GENERATOR.normal(3.0, 2.0, size=400)


@pytest.mark.parametrize(("successes", "count"), [(0, 7), (7, 7), (3, 10), (480, 500)])
def test_a_share_has_wilsons_interval(successes, count):
    found = share_interval(successes, count)
    assert (found.value, found.count) == (successes / count, count)
    assert (found.low, found.high) == pytest.approx(proportion_confint(successes, count, method="wilson"), abs=1e-9)


def test_a_mean_has_an_interval_near_the_normal_one():
    found = mean_interval(VALUES)
    half = 1.96 * VALUES.std(ddof=1) / 20
    assert found.value == pytest.approx(VALUES.mean())
    assert (found.low, found.high) == pytest.approx((VALUES.mean() - half, VALUES.mean() + half), abs=0.05 * half)


def test_the_bootstrap_is_that_of_resampled_means():
    generator, few = np.random.default_rng(3), VALUES[:40]
    means = [generator.choice(few, size=40).mean() for _ in range(RESAMPLES)]
    assert bootstrap_interval(few, level=0.9, seed=3) == pytest.approx(tuple(np.quantile(means, [0.05, 0.95])))
    assert bootstrap_interval(VALUES[:1]) == (VALUES[0], VALUES[0])


def test_the_seed_decides():
    assert mean_interval(VALUES, 1) == mean_interval(VALUES, 1) != mean_interval(VALUES, 2)


def test_too_few_units_have_no_interval():
    assert (share_interval(0, 0).value, share_interval(0, 0).low) == (None, None)
    assert (mean_interval(np.array([])).value, mean_interval(np.array([])).count) == (None, 0)
    assert (mean_interval(np.array([2.0])).value, mean_interval(np.array([2.0])).low) == (2.0, None)
    assert statistic_interval(lambda rows: 1.0, 1).low is None
    assert jackknife_interval(0.5, np.array([0.5])).low is None


def test_a_statistic_is_resampled_by_unit():
    found = statistic_interval(lambda rows: float(VALUES[rows].mean()), 400)
    assert (found.low, found.high) == pytest.approx((mean_interval(VALUES).low, mean_interval(VALUES).high))
    undefined = statistic_interval(lambda rows: None if 0 in rows else 1.0, 5, resamples=50)
    assert (undefined.value, undefined.low) == (None, None)


def test_resamples_that_define_nothing_are_left_out():
    found = statistic_interval(lambda rows: 1.0 if 0 in rows else None, 3, resamples=200)
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_the_jackknife_of_a_mean_is_its_normal_interval():
    n, mean = len(VALUES), VALUES.mean()
    without = (VALUES.sum() - VALUES) / (n - 1)
    found = jackknife_interval(mean, n * mean - (n - 1) * without)
    half = 1.959964 * VALUES.std(ddof=1) / np.sqrt(n)
    assert (found.low, found.high) == pytest.approx((mean - half, mean + half), rel=1e-6)


def test_a_paired_difference_is_surer_than_an_unpaired_one():
    found = paired_difference(VALUES + 0.1 + GENERATOR.normal(0, 0.1, size=400), VALUES)
    assert found.value == pytest.approx(0.1, abs=0.02)
    assert 0.08 < found.low < found.high < 0.12
    assert (found.test, found.p_value) == ("sign-flip", pytest.approx(2e-4))  # no draw of 9,999 is as far from 0


def test_few_paired_differences_are_tested_over_all_their_signs():
    found = paired_difference(np.array([1.0, 2.0, 3.0]), np.zeros(3))
    assert found.p_value == pytest.approx(2 / 8)  # +++ and ---
    assert paired_difference(np.array([3.0, -1.0, 0.5]), np.zeros(3)).p_value == pytest.approx(6 / 8)
    assert paired_difference(np.ones(5), np.ones(5)).p_value == 1.0
    assert paired_difference(np.ones(1), np.zeros(1)).p_value is None


def test_many_paired_differences_are_tested_as_by_the_t_test():
    noise = np.random.default_rng(1).normal(size=200)
    differences = noise - noise.mean() + 0.12
    expected = ttest_1samp(differences, 0.0).pvalue
    assert 0.001 < expected < 0.2
    assert paired_difference(differences, np.zeros(200)).p_value == pytest.approx(expected, abs=0.01)


def test_shares_are_tested_with_mcnemar():
    passed = np.array([True] * 30 + [False] * 12 + [True] * 8 + [False] * 50)
    reference = np.array([True] * 30 + [True] * 12 + [False] * 8 + [False] * 50)
    found = paired_shares(passed, reference)
    table = [[30, 8], [12, 50]]
    assert found.value == pytest.approx(-0.04)
    centre, half = -4 / 102, 1.959964 * np.sqrt(21 - 16 / 102) / 102  # 12.5 and 8.5 of 102
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half), rel=1e-6)
    assert (found.test, found.p_value) == ("mcnemar", pytest.approx(mcnemar(table, exact=True).pvalue))
    same = paired_shares(passed, passed)
    assert (same.value, same.p_value) == (0.0, 1.0)
    assert same.low < 0 < same.high
    assert paired_shares(passed[:0], passed[:0]).value is None
    assert paired_shares(np.array([True] * 3), np.array([False] * 3)).high == 1.0


def test_the_interval_of_a_difference_of_shares_covers_it():
    generator = np.random.default_rng(0)
    found = []
    for _ in range(400):
        hard = generator.random(15) < 0.7
        passed, reference = hard & (generator.random(15) < 0.8), hard & (generator.random(15) < 0.6)
        found.append(paired_shares(passed, reference))
    assert 0.93 <= np.mean([each.low <= 0.14 <= each.high for each in found]) <= 0.995
