"""The result file: what is written is read, and nothing else is taken for one."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from ropo.core.errors import UserError
from ropo.core.intervals import Comparison, Estimate
from ropo.evaluation.results import Change, Metric, ModelResult, SuiteResult, read_results

METRIC = Metric.of("accuracy", Estimate(0.5, 0.4, 0.6, 10), "share of pairs")
CHANGE = Change.against("base", "accuracy", Comparison(0.1, -0.1, 0.3, 10, 0.5, "mcnemar"), "change of: share of pairs")


def result(**settings) -> SuiteResult:
    model = ModelResult(name="tuned", source="org/tuned", fingerprint="ab", metrics=[METRIC], changes=[CHANGE])
    return SuiteResult(suite="preference", settings=settings, models=[model], seed=3)


def test_what_is_written_is_read(tmp_path):
    written = result(beta=0.1)
    written.write(tmp_path)
    assert read_results(tmp_path) == written
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["schema_version"] == 1
    assert {"torch", "transformers", "python"} <= set(found["versions"])
    assert found["models"][0]["changes"][0]["p_value"] == 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_metrics_are_found_by_name():
    (model,) = result().models
    assert (model.metric("accuracy"), model.change("accuracy")) == (METRIC, CHANGE)
    with pytest.raises(KeyError):
        model.metric("margin")


def test_no_number_is_nan():
    with pytest.raises(ValidationError):
        Metric.of("x", Estimate(float("nan"), None, None, 1), "")


def test_what_is_no_result_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no results\.json"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text(
        result().model_dump_json().replace('"schema_version":1', '"schema_version":2')
    )
    with pytest.raises(UserError, match=r"is not a result of schema 1 .schema_version"):
        read_results(tmp_path)
