"""Print a suite's result as a table that a person can read."""

from __future__ import annotations

__all__ = ["print_results"]

from collections.abc import Sequence

from rich.console import Console

from ropo.core.intervals import LEVEL
from ropo.diagnostics.table import FRAME, deal, digits, interval, make_table
from ropo.evaluation.results import Change, Metric, ModelResult, SuiteResult


def print_results(result: SuiteResult, console: Console) -> None:
    """Print one row per metric and one column per model, each change below its metric, and the notes last.

    Models that do not fit beside each other get another table, as a number that is cut is none.
    """
    for models in deal(result.models, _width, console.width):
        console.print(make_table(title_of(result), ("", *(model.name for model in models)), _rows_of(models)))
    for note in result.notes:
        console.print(f"note: {note}", highlight=False, markup=False)


def title_of(result: SuiteResult) -> str:
    """Name the suite, and what the changes are from, which may differ from number to number."""
    compared: dict[str, dict[str, None]] = {}
    for change in (change for model in result.models for change in model.changes):
        compared.setdefault(change.reference, {})[change.name] = None
    if not compared:
        return f"{result.suite}; 95 % intervals"
    (reference, _), *others = compared.items()
    but = "".join(f", of {', '.join(names)} against {other}" for other, names in others)
    return f"{result.suite}; 95 % intervals; changes against {reference}{but}, * where interval and test exclude 0"


def _rows_of(models: Sequence[ModelResult]) -> list[list[str]]:
    """Return the cells of the metrics that some of the models have, and of their changes."""
    rows = []
    for name in dict.fromkeys(metric.name for model in models for metric in model.metrics):
        rows.append([name, *(_cell(model.metrics, name) for model in models)])
        if any(change.name == name for model in models for change in model.changes):
            rows.append(["  change", *(_cell(model.changes, name) for model in models)])
    return rows


def _width(models: Sequence[ModelResult]) -> int:
    columns = zip(("", *(model.name for model in models)), *_rows_of(models), strict=True)
    return 1 + sum(FRAME + max(map(len, column)) for column in columns)


def _cell(metrics: list[Metric] | list[Change], name: str) -> str:
    found = next((metric for metric in metrics if metric.name == name), None)
    if found is None:
        return ""
    between = interval(found.low, found.high)
    if not isinstance(found, Change):
        return f"{digits(found.value)}{between}"
    p_value = "" if found.p_value is None else f" p={found.p_value:.2g}"
    return f"{_signed(found.value)}{between}{p_value}{' *' if _is_sure(found) else ''}"


def _is_sure(change: Change) -> bool:
    """Tell whether a change is there by its interval and by its test, as a bootstrap of few units is too narrow."""
    if change.low is None or change.high is None or change.low <= 0 <= change.high:
        return False
    return change.p_value is None or change.p_value < 1 - LEVEL


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3g}"
