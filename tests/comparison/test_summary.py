"""Means over seeds and what is best, by hand."""

from __future__ import annotations

import pytest

from ropo.comparison.summary import best_of, methods_of, metrics_of_runs, over_seeds
from ropo.core.intervals import Estimate
from ropo.evaluation.results import Metric
from tests.report.made import make_result


def metric(value, low=None, high=None) -> Metric:
    return Metric(name="m", value=value, low=low, high=high, count=5, meaning="m")


def test_one_seed_keeps_its_interval():
    assert over_seeds([metric(0.5, 0.4, 0.7)]) == Estimate(0.5, 0.4, 0.7, 1)


def test_several_seeds_add_their_spread():
    # values 1, 2, 3: s = 1, t(2 degrees) = 4.30265, so 4.30265 / sqrt(3) = 2.48414; unit errors 0.3 below, 0.4 above
    found = over_seeds([metric(value, value - 0.3, value + 0.4) for value in (1.0, 2.0, 3.0)])
    assert (found.value, found.count) == (2.0, 3)
    assert found.low == pytest.approx(2 - (2.48414**2 + 0.3**2) ** 0.5, abs=1e-5)
    assert found.high == pytest.approx(2 + (2.48414**2 + 0.4**2) ** 0.5, abs=1e-5)


def test_equal_seeds_do_not_shrink_what_the_units_leave_open():
    found = over_seeds([metric(0.5, 0.4, 0.6)] * 4)
    assert (found.low, found.high) == (pytest.approx(0.4), pytest.approx(0.6))


def test_what_is_missing_is_not_made_up():
    assert over_seeds([]) == Estimate(None, None, None, 0)
    assert over_seeds([metric(None)]) == Estimate(None, None, None, 0)
    assert over_seeds([metric(1.0, 0.5, 1.5), metric(3.0)]) == Estimate(2.0, None, None, 2)
    assert over_seeds([metric(1.0, 0.5, 1.5), metric(None)]) == Estimate(1.0, 0.5, 1.5, 1)


COLUMN = {
    "a": Estimate(0.9, 0.8, 1.0, 1),
    "b": Estimate(0.85, 0.7, 0.95, 1),
    "c": Estimate(0.5, 0.4, 0.6, 1),
    "d": Estimate(0.1, None, None, 1),
    "e": Estimate(None, None, None, 0),
}


def test_the_best_and_what_cannot_be_told_from_it():
    assert best_of(COLUMN, 1) == ({"a"}, {"b", "d"})  # without an interval nothing can be told
    assert best_of(COLUMN, -1) == ({"d"}, {"a", "b", "c"})
    assert best_of(COLUMN, 0) == (set(), set())
    assert best_of({"a": COLUMN["a"], "f": COLUMN["a"], "c": COLUMN["c"]}, 1) == ({"a", "f"}, set())
    assert best_of({"a": COLUMN["a"], "e": COLUMN["e"]}, 1) == (set(), set())  # no rival


def test_methods_hold_their_seeds_and_know_what_is_lost():
    result = make_result()
    methods = {each.method: each for each in methods_of(result, "two")}
    assert list(methods) == ["reference", "RoPO", "LoRA", "full", "hot", "broken"]
    assert {each.data for method in methods.values() for each in method.runs} == {"two"}
    complete = {name: each.complete for name, each in methods.items()}
    assert complete == {"reference": True, "RoPO": True, "LoRA": True, "full": True, "hot": False, "broken": False}
    assert [run.seed for run in methods["hot"].finished] == [2]
    suite = next(each for each in result.suites if (each.data, each.result.suite) == ("two", "knowledge"))
    found = metrics_of_runs(suite, methods["hot"].runs, "text/perplexity")
    assert list(found) == ["two/hot/seed2"]
    model = next(each for each in suite.result.models if each.name == "two/hot/seed2")
    assert found["two/hot/seed2"] == model.metric("text/perplexity")
    assert metrics_of_runs(suite, methods["hot"].runs, "text/perplexity", change=True) == {
        "two/hot/seed2": model.change("text/perplexity")
    }
