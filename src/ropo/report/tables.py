"""The tables of the page: rows and cells, every number still the one of the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ropo.comparison.results import ComparisonResult, DataSuite, RunResult
from ropo.comparison.summary import MethodRuns, best_of, metrics_of_runs, over_seeds
from ropo.core.intervals import Estimate
from ropo.evaluation.results import Change, Metric, ModelResult
from ropo.report.headline import Column, all_columns, headline_columns


@dataclass(frozen=True)
class Cell:
    """Hold one cell of the summary: the mean over seeds, each seed's metric, and how it stands in its column."""

    estimate: Estimate
    seeds: tuple[tuple[RunResult, Metric], ...]
    best: bool
    alike: bool


@dataclass(frozen=True)
class Row:
    """Hold one method's row of the summary."""

    method: MethodRuns
    rates: tuple[float, ...]
    trainable: float | None
    cells: tuple[Cell, ...]

    @property
    def losses(self) -> list[tuple[RunResult, list[int]]]:
        """The runs that did not finish, one for each status and reason, with the seeds that share it."""
        grouped: dict[tuple[str, str | None], list[RunResult]] = {}
        for run in self.method.runs:
            if run.status != "finished":
                grouped.setdefault((run.status, run.reason), []).append(run)
        return [(runs[0], [run.seed for run in runs]) for runs in grouped.values()]


@dataclass(frozen=True)
class SuiteRow:
    """Hold what one suite found of one run: metrics and changes by name."""

    model: ModelResult
    run: RunResult | None
    metrics: Mapping[str, Metric]
    changes: Mapping[str, Change]


@dataclass(frozen=True)
class Watched:
    """Hold what the monitor measured last in a run: its numbers, the KL divergence, and its warnings."""

    run: RunResult
    numbers: Mapping[str, float]
    kl: Estimate
    warnings: Sequence[str]


def summary_rows(result: ComparisonResult, data: str, methods: Sequence[MethodRuns]) -> tuple[list[Column], list[Row]]:
    """Return the columns and rows of a data set's summary.

    Best and alike are told among the methods all of whose seeds finished, without the reference.
    """
    columns = headline_columns(result, data)
    cells: dict[str, list[Cell]] = {method.method: [] for method in methods}
    for column in columns:
        found = {method.method: metrics_of_runs(column.suite, method.runs, column.name) for method in methods}
        estimates = {name: over_seeds(list(metrics.values())) for name, metrics in found.items()}
        rivals = {each.method: estimates[each.method] for each in methods if each.complete and not each.is_reference}
        best, alike = best_of(rivals, column.better)
        for method in methods:
            seeds = tuple(
                (run, found[method.method][run.name]) for run in method.runs if run.name in found[method.method]
            )
            name = method.method
            cells[name].append(Cell(estimates[name], seeds, name in best, name in alike))
    rows = [Row(method, _rates(method), _trainable(method), tuple(cells[method.method])) for method in methods]
    return columns, rows


def suite_table(suite: DataSuite, runs: Sequence[RunResult]) -> tuple[list[Column], list[SuiteRow]]:
    """Return everything that a suite found, run by run."""
    named = {run.name: run for run in runs}
    rows = [
        SuiteRow(
            model,
            named.get(model.name),
            {metric.name: metric for metric in model.metrics},
            {change.name: change for change in model.changes},
        )
        for model in suite.result.models
    ]
    return all_columns(suite), rows


def watched_runs(runs: Sequence[RunResult]) -> list[Watched]:
    """Return what the monitor measured last in each run that it watched, and what it warned of."""
    found = []
    for run in runs:
        metrics = {} if run.record is None else run.record.metrics
        if numbers := metrics.get("monitor"):
            value, low, high = (numbers.get(f"kl_per_token{end}") for end in ("", "_low", "_high"))
            kl = Estimate(value, low, high, 1)
            warnings = [f"{name} (step {each['step']})" for name, each in metrics.get("warnings", {}).items()]
            found.append(Watched(run, numbers, kl, warnings))
    return found


def _rates(method: MethodRuns) -> tuple[float, ...]:
    return tuple(dict.fromkeys(run.learning_rate for run in method.runs if run.learning_rate is not None))


def _trainable(method: MethodRuns) -> float | None:
    """Return the share of the weights that were trained, which all seeds have in common."""
    shares = (run.record.metrics.get("trainable_share") for run in method.finished if run.record is not None)
    return next((float(share) for share in shares if isinstance(share, int | float)), None)
