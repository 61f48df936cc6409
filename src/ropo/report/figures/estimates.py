"""Estimates with their intervals: metric by metric, and quality against forgetting."""

from __future__ import annotations

__all__ = ()

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from ropo.comparison.results import ComparisonResult
from ropo.comparison.summary import MethodRuns, metrics_of_runs, over_seeds
from ropo.core.intervals import Estimate
from ropo.evaluation.results import Metric
from ropo.report.figures.style import Chart, Mark, View, figure
from ropo.report.headline import Column, forgetting_columns, quality_columns
from ropo.report.text import label

_EACH = "Small marks are seeds; the large one is their mean, with the interval that the summary explains."


def estimates_chart(
    key: str, title: str, columns: Sequence[Column], methods: Sequence[MethodRuns], marks: Mapping[str, Mark]
) -> Chart | None:
    """Draw metrics with intervals, one after the other by the reader's choice; None where there are none."""
    views = [View(_column_label(column, columns), _estimates(column, methods, marks)) for column in columns]
    return Chart.of(key, title, _EACH, "Metric", views, marks)


def frontier_chart(
    key: str, result: ComparisonResult, data: str, methods: Sequence[MethodRuns], marks: Mapping[str, Mark]
) -> Chart | None:
    """Draw preference quality against forgetting, the paired change from the reference; None where one is lacking."""
    title = "Preference quality against forgetting"
    quality, forgetting = quality_columns(result, data), forgetting_columns(result, data)
    views = [
        View(
            f"{_column_label(up, quality)} against {_column_label(right, forgetting)}",
            _frontier(up, right, methods, marks),
        )
        for right in forgetting
        for up in quality
    ]
    caption = f"Higher is better; the dotted line is the untrained model's knowledge. {_EACH}"
    return Chart.of(key, title, caption, "Axes", views, marks)


def _column_label(column: Column, among: Sequence[Column]) -> str:
    """Name a column, with its suite where another suite has one of the same name."""
    same = sum(each.name == column.name for each in among)
    return f"{column.title} ({column.suite.result.suite})" if same > 1 else column.title


def _whole(method: MethodRuns, measured: Sequence[str]) -> int | str | None:
    """Say what the large mark stands for: `mean`, the only seed that was measured, or the reference, which has none."""
    if method.is_reference:
        return None
    return next(run.seed for run in method.runs if run.name in measured) if len(measured) == 1 else "mean"


def _estimates(column: Column, methods: Sequence[MethodRuns], marks: Mapping[str, Mark]) -> go.Figure:
    traces = []
    for method in methods:
        mark, found = marks[method.method], metrics_of_runs(column.suite, method.runs, column.name)
        height = [label(method.method)]
        for run in method.runs:
            if run.name in found and len(found) > 1:
                traces.append(_point(mark, run.seed, [found[run.name].value], height, small=True))
        mean = over_seeds(list(found.values()))
        if mean.value is not None:
            traces.append(_point(mark, _whole(method, list(found)), [mean.value], height, error_x=_bars(mean)))
    rows = [label(method.method) for method in methods]
    return figure(
        traces,
        column.meaning.split(";")[0],
        "",
        yaxis={"categoryarray": rows[::-1], "categoryorder": "array", "type": "category"},
    )


def _frontier(up: Column, right: Column, methods: Sequence[MethodRuns], marks: Mapping[str, Mark]) -> go.Figure:
    traces = []
    for method in methods:
        mark = marks[method.method]
        heights = metrics_of_runs(up.suite, method.runs, up.name)
        changes = metrics_of_runs(right.suite, method.runs, right.name, change=True)
        if method.is_reference:
            changes = {name: _nothing(right.name) for name in heights}
        both = [run for run in method.runs if run.name in heights and run.name in changes]
        if len(both) > 1:
            for run in both:
                traces.append(_point(mark, run.seed, [changes[run.name].value], [heights[run.name].value], small=True))
        x, y = (over_seeds([found[run.name] for run in both]) for found in (changes, heights))
        if x.value is not None and y.value is not None:
            seed = _whole(method, [run.name for run in both])
            traces.append(_point(mark, seed, [x.value], [y.value], error_x=_bars(x), error_y=_bars(y)))
    side = "more is forgotten to the right" if right.better < 0 else "more is forgotten to the left"
    drawn = figure(traces, f"change of {right.title} ({side})", up.title)
    drawn.add_vline(x=0, line={"dash": "dot", "width": 1, "color": "#808488"})
    return drawn


def _nothing(name: str) -> Metric:
    return Metric(name=name, value=0.0, count=0, meaning="the reference itself")


def _point(
    mark: Mark, seed: int | str | None, x: list[Any], y: list[Any], small: bool = False, **bars: Any
) -> go.Scatter:
    which = "" if seed is None else f", seed {seed}" if isinstance(seed, int) else f", {seed}"
    return go.Scatter(
        x=x,
        y=y,
        mode="markers",
        name=label(mark.method) + which,
        marker={
            "color": mark.colour,
            "symbol": mark.symbol,
            "size": 7 if small else 13,
            "opacity": 0.55 if small else 1,
        },
        meta=mark.meta(seed),
        **bars,
    )


def _bars(found: Estimate) -> dict[str, Any]:
    if found.value is None or found.low is None or found.high is None:
        return {"visible": False}
    upper, lower = [found.high - found.value], [found.value - found.low]
    return {"type": "data", "symmetric": False, "array": upper, "arrayminus": lower, "thickness": 1.5, "width": 4}
