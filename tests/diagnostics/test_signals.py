"""A warning needs a number past its threshold, and a change that is more than chance."""

from __future__ import annotations

import numpy as np
import pytest

from ropo.diagnostics import SIGNALS, Reading, Signal
from ropo.diagnostics.signals import FEWEST, SURE, triggered

[GROWTH] = [signal for signal in SIGNALS if signal.name == "length_growth"]
[DISPLACED] = [signal for signal in SIGNALS if signal.name == "displacement"]


def lengths(before: list[float], after: list[float]) -> Reading:
    return Reading(sum(after) / sum(before), tuple(new - old for new, old in zip(after, before, strict=True)))


def test_one_long_answer_is_chance_and_eight_longer_ones_are_not() -> None:
    before = [20.0] * 8
    outlier = lengths(before, [21, 19, 20, 22, 18, 20, 20, 200])
    consistent = lengths(before, [30, 35, 33, 28, 40, 36, 31, 38])
    assert outlier.value > consistent.value > GROWTH.threshold
    assert triggered({"length_ratio": outlier}) == []
    assert triggered({"length_ratio": consistent}) == [GROWTH]
    assert GROWTH.describe(consistent) == (
        "length_growth: answers are 1.69 times as long as the reference's (warns above 1.5, by chance with p = 0.004)"
    )


def test_a_sure_change_below_the_threshold_is_no_warning() -> None:
    assert triggered({"length_ratio": lengths([20.0] * 8, [29.0] * 8)}) == []


def test_falling_numbers_are_tested_the_other_way() -> None:
    falls, rises = Reading(-0.5, (-0.5,) * 8), Reading(-0.5, (0.5,) * 8)
    assert triggered({DISPLACED.measure: falls}) == [DISPLACED]
    assert triggered({DISPLACED.measure: rises}) == []
    assert (DISPLACED.chance(falls), DISPLACED.chance(rises)) == (1 / 256, 1.0)


def test_what_is_counted_needs_no_odds() -> None:
    [collapse] = [signal for signal in SIGNALS if signal.name == "neuron_collapse"]
    assert triggered({"collapsed_pairs": Reading(1.0)}) == [collapse]
    assert "chance" not in collapse.describe(Reading(1.0))


def test_fewest_units_are_those_that_can_be_sure() -> None:
    signal = Signal("any", "x", 0.0, "{}")
    assert not signal.triggers(Reading(1.0, (1.0,) * (FEWEST - 1)))
    assert signal.triggers(Reading(1.0, (1.0,) * FEWEST))
    assert 2.0**-FEWEST <= SURE < 2.0 ** (1 - FEWEST)


def test_what_was_not_measured_triggers_nothing() -> None:
    assert triggered({}) == triggered({"margin": Reading(99.0)}) == []


@pytest.mark.parametrize("units", [8, 16])
def test_false_alarms_of_an_unchanged_model_are_rare_where_the_threshold_alone_cries_often(units: int) -> None:
    generator = np.random.default_rng(0)
    drawn = np.minimum(generator.lognormal(3.0, 1.2, (1000, 2, units)).round() + 1, 64.0)
    readings = [lengths(before.tolist(), after.tolist()) for before, after in drawn]
    alone = np.mean([reading.value > GROWTH.threshold for reading in readings])
    rule = np.mean([GROWTH.triggers(reading) for reading in readings])
    assert alone > 0.04
    assert rule <= SURE + 3 * np.sqrt(SURE / 1000)  # and three standard errors of the simulation
