"""The typed result that every suite writes, as `results.json`."""

from __future__ import annotations

__all__ = ["FILE_NAME", "Change", "Metric", "ModelResult", "SuiteResult", "WrittenResult", "read_results"]

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ropo.core.files import write_atomically
from ropo.core.intervals import Estimate
from ropo.core.record import Measure, Provenance, Source, read_typed

FILE_NAME = "results.json"


class Metric(Measure):
    """One number with how sure it is.

    Attributes:
        name: Short and stable: what a table's row is called.
        value: The number; None where the data define none.
        low: Lower end of its 95 % interval; None where there is no interval, which `meaning` then explains.
        high: Upper end.
        count: Number of independent units (pairs, questions, prompts) that it is over.
        meaning: What it is, in which unit, and how the interval was made, in one sentence.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    count: int
    meaning: str

    @classmethod
    def of(cls, name: str, found: Estimate, meaning: str) -> Metric:
        """Name an estimate."""
        return cls(name=name, value=found.value, low=found.low, high=found.high, count=found.count, meaning=meaning)


class Change(Metric):
    """The paired change of a metric: this model minus the reference on the same units, with its interval.

    Attributes:
        reference: Name of the model that it is the change from.
        p_value: Two-sided p-value of no change; None where no test was made.
        test: Name of that test, such as `mcnemar`.
    """

    reference: str
    p_value: float | None = None
    test: str | None = None

    @classmethod
    def against(cls, reference: str, name: str, found: Estimate, meaning: str) -> Change:
        """Name an estimate of a change, with the test that a `Comparison` holds, and what it is the change from."""
        return cls(name=name, meaning=meaning, reference=reference, **asdict(found))


class ModelResult(Measure):
    """What a suite measured of one model.

    Attributes:
        name: The model's name on the command line.
        source: What was loaded: hub id, or name of a folder or file.
        fingerprint: `ropo.lm.fingerprint.fingerprint_source` of it; None for a model known by its outputs only.
        metrics: The numbers.
        changes: Paired changes against the first model; empty for the first model itself.
        details: What the suite says beyond that, such as scores by category; JSON.
    """

    name: str
    source: str
    fingerprint: str | None
    metrics: list[Metric]
    changes: list[Change] = Field(default_factory=list)
    details: dict[str, Any] = Field(default_factory=dict)

    def metric(self, name: str) -> Metric:
        """Return the metric of a name; `KeyError` if there is none."""
        return {metric.name: metric for metric in self.metrics}[name]

    def change(self, name: str) -> Change:
        """Return the change of the metric of a name; `KeyError` if there is none."""
        return {change.name: change for change in self.changes}[name]


class WrittenResult(Measure, Provenance):
    """What a result that is written to `results.json` says of how it was made.

    Attributes:
        schema_version: Version of this schema; readers refuse others.
        created: When it was complete, in UTC.
    """

    schema_version: Literal[1] = 1
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))

    def write(self, folder: Path) -> None:
        """Write the result to `results.json` in a folder, whole or not at all."""
        write_atomically(folder / FILE_NAME, self.model_dump_json(indent=2) + "\n")


class SuiteResult(WrittenResult):
    """The result of one suite for one or many models.

    Attributes:
        suite: Name of the suite.
        settings: Every setting of the suite with the value it had. Never a key.
        data: What was read, by its use.
        models: One entry a model, in the order of the command line; the first is the reference of the changes.
        notes: What a reader of the numbers has to know: what they lack, what was skipped, what failed.
        seed: Seed of every random draw.
    """

    suite: str
    settings: dict[str, Any]
    data: dict[str, Source] = Field(default_factory=dict)
    models: list[ModelResult]
    notes: list[str] = Field(default_factory=list)
    seed: int


def read_results(folder: Path) -> SuiteResult:
    """Read the result of a suite.

    Raises:
        UserError: If the folder has no `results.json`, or it is not a result of this schema.
    """
    mends = ("name the output folder of `ropo evaluate`", "evaluate again")
    return read_typed(SuiteResult, folder / FILE_NAME, "a result of schema 1", *mends)
