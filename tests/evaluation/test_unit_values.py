"""Metrics and paired changes from one number a unit."""

from __future__ import annotations

import numpy as np
import pytest

from ropo.evaluation.unit_values import UnitValues, compare_models

USED = np.array([True, False, True, True])
MEAN = np.array([1.0, 2.0, 3.0, 6.0])


def one(values, first):
    (_, none), ((metric,), (change,)) = compare_models(["base", "tuned"], [{"x": first}, {"x": values}], "pairs", 0)
    assert none == []
    assert (metric.name, change.name, change.reference) == ("x", "x", "base")
    return metric, change


def test_a_share():
    metric, change = one(UnitValues(MEAN > 1.5, "share"), UnitValues(MEAN > 2.5, "share"))
    assert (metric.value, metric.count) == (0.75, 4)
    assert metric.meaning == "share; Wilson interval over pairs"
    assert (change.value, change.test, change.p_value) == (0.25, "mcnemar", 1.0)


def test_a_mean_over_the_units_it_is_about():
    metric, change = one(UnitValues(MEAN, "mean", USED), UnitValues(MEAN * 0, "mean", USED))
    assert (metric.value, metric.count) == (pytest.approx(10 / 3), 3)
    assert (change.value, change.low, change.high) == (metric.value, metric.low, metric.high)
    assert (change.test, change.p_value) == ("sign-flip", 0.25)  # three differences of one sign: +++ and --- of 8


def test_a_perplexity_is_the_exponential_of_a_mean():
    metric, change = one(UnitValues(MEAN, "ppl", exponential=True), UnitValues(MEAN - 1, "ppl", exponential=True))
    assert metric.value == pytest.approx(np.exp(3))
    assert np.exp(1) <= metric.low < np.exp(3) < metric.high <= np.exp(6)
    assert change.value == pytest.approx(np.exp(3) - np.exp(2))
    assert 0 < change.low < change.value < change.high
    _, loss = one(UnitValues(MEAN, "loss"), UnitValues(MEAN - 1, "loss"))
    assert (change.p_value, change.test) == (loss.p_value, "sign-flip"), "a star beside one is a star beside both"


def test_a_statistic_with_pseudo_values():
    metric, change = one(UnitValues(MEAN, "distinct", whole=2.5), UnitValues(MEAN - USED, "distinct", whole=1.5))
    assert (metric.value, change.value) == (2.5, 1.0)
    half = 1.959964 * np.std(MEAN, ddof=1) / 2
    assert (metric.low, metric.high) == pytest.approx((2.5 - half, 2.5 + half), rel=1e-6)
    assert change.high - 1 == pytest.approx(1.959964 * np.std(USED, ddof=1) / 2, rel=1e-6)


def test_what_only_one_model_has_does_not_change():
    of_models = [{"x": UnitValues(MEAN, "mean")}, {"x": UnitValues(MEAN, "mean"), "y": UnitValues(MEAN, "mean")}]
    _, (metrics, changes) = compare_models(["base", "tuned"], of_models, "pairs", 0)
    assert [metric.name for metric in metrics] == ["x", "y"]
    assert [change.name for change in changes] == ["x"]
