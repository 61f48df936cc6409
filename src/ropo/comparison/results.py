"""The typed result of a comparison, as `results.json`: everything that a report shows, already computed."""

from __future__ import annotations

__all__ = [
    "Bounds",
    "ChosenRate",
    "ComparisonResult",
    "CosineHistogram",
    "DataSuite",
    "EqualGain",
    "RunPath",
    "RunResult",
    "SideBySideAnswers",
]

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ropo.core.record import Measure, RunRecord, read_typed
from ropo.diagnostics.report import DiagnosticReport
from ropo.evaluation.path.results import PathResult
from ropo.evaluation.results import FILE_NAME, SuiteResult, WrittenResult

Status = Literal["finished", "diverged", "failed", "unfinished"]


class CosineHistogram(Measure):
    """Count the pairwise cosines of a layer's neurons in bins between `edges`, before and after training."""

    layer: str
    edges: list[float]
    before: list[int]
    after: list[int]


class NeuronProjection(Measure):
    """Show some neurons of a layer, normalised, on the two principal axes of the reference's.

    Attributes:
        layer: Name of the layer.
        explained: Shares of the reference's variance along the two axes.
        before: (neurons, 2): the reference's.
        after: (neurons, 2): the same neurons after training, on the same axes.
    """

    layer: str
    explained: tuple[float, float]
    before: list[tuple[float, float]]
    after: list[tuple[float, float]]


class RunResult(Measure):
    """One training run and what was found in it.

    Attributes:
        name: Unique in the comparison, such as `uf/ropo/seed0`; the name of its model in every suite's result.
        data: Name of the data set in the recipe; the runs of one data set are comparable.
        method: The method's label, such as `RoPO without magnitude`.
        seed: Its seed.
        learning_rate: Its learning rate; None where nothing was trained, as for the reference.
        status: `finished`; `diverged` where the loss or the weights stopped being finite; `failed` for another reason;
            `unfinished` where it has not run or was stopped.
        reason: Why it is not finished, in one line.
        command: The command that trained it, without the program's name; empty for the reference.
        record: Its `run.json`.
        curves: The lines of its `metrics.jsonl`, under TRL's names and `monitor/...`.
        diagnosis: What `ropo diagnose` found against the reference.
        diagnosis_command: The command that found it, without the program's name.
        cosines: Its neurons' cosines, layer by layer.
        neurons: A picture of one layer's neurons.
    """

    name: str
    data: str
    method: str
    seed: int
    learning_rate: float | None
    status: Status
    reason: str | None = None
    command: list[str] = Field(default_factory=list)
    record: RunRecord | None = None
    curves: list[dict[str, float | None]] = Field(default_factory=list)
    diagnosis: DiagnosticReport | None = None
    diagnosis_command: list[str] = Field(default_factory=list)
    cosines: list[CosineHistogram] = Field(default_factory=list)
    neurons: NeuronProjection | None = None


class TriedRate(Measure):
    """One learning rate that was tried, and what it reached on the validation split."""

    learning_rate: float
    status: Status
    value: float | None
    low: float | None = None
    high: float | None = None


class ChosenRate(Measure):
    """Say how the learning rate of a method was chosen on the validation split; never on the test split."""

    data: str
    method: str
    criterion: str
    candidates: list[TriedRate]
    chosen: float


class RunPath(Measure):
    """One run of a frontier, measured along its way.

    Attributes:
        data: Name of the data set.
        method: The method's label.
        seed: Its seed.
        learning_rate: Its learning rate.
        status: As in `RunResult`.
        reason: Why it is not finished, or was not measured, in one line.
        command: The command that measured it, without the program's name.
        path: What was measured; None where nothing was.
    """

    data: str
    method: str
    seed: int
    learning_rate: float
    status: Status
    reason: str | None = None
    command: list[str] = Field(default_factory=list)
    path: PathResult | None = None


class Bounds(Measure):
    """A number with the ends of its 95 % interval; None where there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None


class EqualGain(Measure):
    """Say what an equal gain costs two methods; see `ropo.comparison.frontier.equal_gain`.

    Attributes:
        data: Name of the data set.
        method: The method's label.
        against: The other method's.
        gain: What was gained: `loss`, `margin` or `pass`.
        cost: What it cost: `forgetting`, `kl` or `length`.
        share: The level, as a share of the best gain that both methods reach.
        level: That gain.
        value: The least cost at which the method gains as much.
        other: The least cost of the other one.
        difference: value - other.
        seeds: Seeds of the method and of the other one.
        units: Pairs, prompts or windows behind gain and cost.
        draws: Resamples that define it, of all that were drawn; the interval is over them.
    """

    data: str
    method: str
    against: str
    gain: str
    cost: str
    share: float
    level: float
    value: Bounds
    other: Bounds
    difference: Bounds
    seeds: tuple[int, int]
    units: dict[str, int]
    draws: tuple[int, int]


class DataSuite(Measure):
    """A suite's result for the runs of one data set; the reference is its first model.

    Attributes:
        data: Name of the data set.
        result: The result.
        commands: The command that measured a model, by its name in the result, without the program's name.
    """

    data: str
    result: SuiteResult
    commands: dict[str, list[str]] = Field(default_factory=dict)


class SideBySideAnswers(Measure):
    """The first answers of several models to one prompt. All of it is untrusted text.

    Attributes:
        data: Name of the data set.
        prompt: The last user turn.
        answers: Answer by run name.
        passed: Whether the answer follows all instructions, by run name, where a program can tell.
    """

    data: str
    prompt: str
    answers: dict[str, str]
    passed: dict[str, bool] = Field(default_factory=dict)


class ComparisonResult(WrittenResult):
    """A whole comparison.

    Attributes:
        title: What was compared, in words.
        recipe: The recipe with every default filled in; None for a report of runs that were made one by one.
        runs: The final runs in the order of the recipe.
        selections: How the learning rates were chosen.
        suites: The results of the evaluations.
        samples: Answers side by side.
        paths: Every run of a frontier along its way, those that did not finish too.
        equal_gains: What equal gains cost the methods of a frontier.
        notes: What a reader of the numbers has to know.
    """

    title: str
    recipe: dict[str, Any] | None = None
    runs: list[RunResult]
    selections: list[ChosenRate] = Field(default_factory=list)
    suites: list[DataSuite] = Field(default_factory=list)
    samples: list[SideBySideAnswers] = Field(default_factory=list)
    paths: list[RunPath] = Field(default_factory=list)
    equal_gains: list[EqualGain] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)


def read_comparison(folder: Path) -> ComparisonResult:
    """Read the result of a comparison.

    Raises:
        UserError: If the folder has no `results.json`, or it is not a comparison of this schema.
    """
    mends = ("name the output folder of `ropo compare`", "compare again")
    return read_typed(ComparisonResult, folder / FILE_NAME, "a comparison of schema 1", *mends)
