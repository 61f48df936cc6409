"""Held-out measurements, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ropo.core.intervals import bootstrap_interval
from ropo.training.run import held_out_metrics

BEFORE = np.array([[-10.0, -8.0], [-5.0, -9.0]])
AFTER = np.array([[-7.0, -9.0], [-6.0, -8.0]])
# gains: chosen +3, -1; rejected -1, +1; differences 4, -2


def test_metrics():
    metrics = held_out_metrics(BEFORE, AFTER, beta=0.5)
    interval, margins = metrics.pop("margin_interval"), metrics.pop("margins")
    loss = (math.log1p(math.exp(-2.0)) + math.log1p(math.exp(1.0))) / 2  # -log sigmoid(x) = log(1 + exp(-x))
    assert metrics == pytest.approx(
        {
            "pairs": 2,
            "loss": loss,
            "margin": 0.5,
            "accuracy": 0.5,
            "chosen_before": -7.5,
            "chosen_after": -6.5,
            "rejected_before": -8.5,
            "rejected_after": -8.5,
            "prefers_chosen_before": 0.5,
            "prefers_chosen_after": 1.0,
        }
    )
    assert margins == [2.0, -1.0]
    assert interval == (-1.0, 2.0)  # of two pairs, a quarter of the resamples holds only the lower one


def test_one_pair_has_no_interval():
    assert held_out_metrics(BEFORE[:1], AFTER[:1], beta=0.5)["margin_interval"] is None


def test_no_training_is_ln_2():
    assert held_out_metrics(BEFORE, BEFORE, beta=0.1)["loss"] == pytest.approx(math.log(2))


def test_the_interval_has_the_width_of_the_normal_one():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    low, high = bootstrap_interval(values)
    error = 1.96 * values.std() / 20
    # Its ends are quantiles of 10,000 means, good to a few percent of the standard error.
    assert low == pytest.approx(values.mean() - error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + error, abs=0.1 * error)
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval(np.array([2.0, 2.0])) == (2.0, 2.0)
