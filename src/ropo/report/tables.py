"""The tables of the page: rows and cells, every number still the one of the result."""

from __future__ import annotations

__all__ = ()

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ropo.comparison.results import ComparisonResult, DataSuite, RunResult
from ropo.comparison.summary import MethodRuns, best_of, metrics_of_runs, over_seeds
from ropo.core.intervals import Estimate
from ropo.evaluation.results import Change, Metric, ModelResult
from ropo.report.headline import KNOWLEDGE, QUALITY, Column, all_columns, headline_columns
from ropo.report.text import number

_KINDS = (QUALITY, (KNOWLEDGE,))
_MARGIN = "preference", "margin"


@dataclass(frozen=True)
class SummaryCell:
    """One cell of the summary: the mean over seeds, each seed's metric, and how it stands in its column.

    `change` is the mean of the paired changes from the reference, None for the reference and what has none; `units` the
    number of pairs, prompts or questions behind a seed's number.
    """

    estimate: Estimate
    change: Estimate | None
    units: int
    seeds: tuple[tuple[RunResult, Metric], ...]
    best: bool
    alike: bool


@dataclass(frozen=True)
class MethodRow:
    """One method's row of the summary."""

    method: MethodRuns
    rates: tuple[float, ...]
    trainable: float | None
    cells: tuple[SummaryCell, ...]

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
    """What one suite found of one run: metrics and changes by name."""

    model: ModelResult
    run: RunResult | None
    metrics: Mapping[str, Metric]
    changes: Mapping[str, Change]


@dataclass(frozen=True)
class Watched:
    """What the monitor measured last in a run: its numbers, the KL divergence, and its warnings."""

    run: RunResult
    numbers: Mapping[str, float]
    kl: Estimate
    warnings: Sequence[str]


def summary_rows(
    result: ComparisonResult, data: str, methods: Sequence[MethodRuns]
) -> tuple[list[Column], list[MethodRow]]:
    """Return the columns and rows of a data set's summary.

    Best and alike are told among the methods all of whose seeds finished, without the reference; where all of them have
    changes, by these, as a paired change does not hold the chance that all methods share.
    """
    columns = headline_columns(result, data)
    cells: dict[str, list[SummaryCell]] = {method.method: [] for method in methods}
    for column in columns:
        found = {method.method: metrics_of_runs(column.suite, method.runs, column.name) for method in methods}
        estimates = {name: over_seeds(list(metrics.values())) for name, metrics in found.items()}
        changes = {method.method: _mean_change(column, method) for method in methods}
        rivals = {each.method: estimates[each.method] for each in methods if each.complete and not each.is_reference}
        paired = {name: change for name in rivals if (change := changes[name]) is not None}
        best, alike = best_of(paired if len(paired) == len(rivals) else rivals, column.better)
        for method in methods:
            seeds = tuple(
                (run, found[method.method][run.name]) for run in method.runs if run.name in found[method.method]
            )
            name = method.method
            units = max((metric.count for _, metric in seeds), default=0)
            cells[name].append(SummaryCell(estimates[name], changes[name], units, seeds, name in best, name in alike))
    rows = [MethodRow(method, _rates(method), _trainable(method), tuple(cells[method.method])) for method in methods]
    return columns, rows


def change_lines(columns: Sequence[Column], rows: Sequence[MethodRow]) -> list[str]:
    """Say in words how each method changed the first metrics that have a better side: quality, then forgetting.

    Accuracy on pairs has no change, as the untrained model has none: its margin stands for it, which is one.
    """
    lines = []
    chosen = [
        next((each for each in columns if each.better and each.suite.result.suite in kind), None) for kind in _KINDS
    ]
    for column in (each for each in chosen if each is not None):
        place = columns.index(column)
        told = [line for row in rows if (line := _change_words(row, row.cells[place], column.better)) is not None]
        if told:
            reference = next((row.cells[place].estimate.value for row in rows if row.method.is_reference), None)
            before = "" if reference is None else f", {number(reference)} before training"
            lines.append(f"{column.title} ({column.suite.result.suite}{before}): {'; '.join(told)}.")
        elif column.suite.result.suite == "preference":
            lines += _margin_lines(columns, rows)
    return lines


def _margin_lines(columns: Sequence[Column], rows: Sequence[MethodRow]) -> list[str]:
    """Say in words how far each method separates held-out pairs; nothing where no margin was measured."""
    places = [place for place, each in enumerate(columns) if (each.suite.result.suite, each.name) == _MARGIN]
    sides = "above 0", "below 0", "not told from 0"
    told = [_told(row, row.cells[place], row.cells[place].estimate, sides) for place in places for row in rows]
    said = "; ".join(filter(None, told))
    return [f"margin on held-out pairs (preference, 0 before training): {said}."] if said else []


def _change_words(row: MethodRow, cell: SummaryCell, better: int) -> str | None:
    sides = ("better", "worse", "no change told") if better > 0 else ("worse", "better", "no change told")
    return None if cell.change is None else _told(row, cell, cell.change, sides)


def _told(row: MethodRow, cell: SummaryCell, found: Estimate, sides: tuple[str, str, str]) -> str | None:
    """Write a method's number with its interval, its units and the side of 0 that it is on; None without interval."""
    if found.value is None or found.low is None or found.high is None:
        return None
    side = sides[2] if found.low <= 0 <= found.high else sides[0] if found.value > 0 else sides[1]
    plus = "+" if found.value > 0 else ""
    seeds = f"{found.count} seeds" if len(cell.seeds) > 1 else "1 seed"
    ends = f"{number(found.low)} to {number(found.high)}"
    return f"{row.method.method} {plus}{number(found.value)} ({ends}, n = {cell.units}, {seeds}), {side}"


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


def _mean_change(column: Column, method: MethodRuns) -> Estimate | None:
    """Return the mean over seeds of a method's paired changes; None where a seed that was measured has none."""
    measured = metrics_of_runs(column.suite, method.runs, column.name)
    changes = metrics_of_runs(column.suite, method.runs, column.name, change=True)
    if method.is_reference or not changes or set(changes) != set(measured):
        return None
    return over_seeds(list(changes.values()))


def _rates(method: MethodRuns) -> tuple[float, ...]:
    return tuple(dict.fromkeys(run.learning_rate for run in method.runs if run.learning_rate is not None))


def _trainable(method: MethodRuns) -> float | None:
    """Return the share of the weights that were trained, which all seeds have in common."""
    shares = (run.record.metrics.get("trainable_share") for run in method.finished if run.record is not None)
    return next((float(share) for share in shares if isinstance(share, int | float)), None)
