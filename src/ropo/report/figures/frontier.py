"""Frontiers: gain against what it costs, a line for each run and the least cost of each method."""

from __future__ import annotations

__all__ = ()

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from ropo.comparison.frontier.curves import MethodPaths, methods_of_paths
from ropo.comparison.frontier.lines import Envelope, MethodLines, PathLine, frame_of, lines_of
from ropo.comparison.frontier.quantities import COSTS, GAINS, LOOKS, QUANTITIES, series_of
from ropo.comparison.results import ComparisonResult, RunPath
from ropo.report.figures.style import Chart, Mark, View, faded, figure
from ropo.report.text import label, seed_words, setting

_TITLES = {"forgetting": "Gain against forgetting", "kl": "Gain against KL", "length": "Gain against length"}
_GAIN_NAMES = {"pass": "pass rate", "loss": "DPO loss", "margin": "margin"}
_COST_NAMES = {"forgetting": "forgetting", "kl": "KL", "length": "length"}
_NAMES = {**_GAIN_NAMES, **_COST_NAMES, "tokens": "length of answers", "chosen": "chosen", "rejected": "rejected"}
_HOW = (
    "Thin lines are runs, one a learning rate and seed, from the untrained model at 0 through their checkpoints; the "
    "thick line is the least cost at which a method gains as much, its band the lowest and the highest seed. A run "
    "that breaks leads out of the frame."
)


def frontier_charts(key: str, result: ComparisonResult, data: str, marks: Mapping[str, Mark]) -> list[Chart]:
    """Draw every gain against every cost, one chart a cost; what was not measured has no chart."""
    methods = [each for each in methods_of_paths(result.paths, data) if each.method in marks]
    charts = []
    for cost in COSTS:
        views = []
        for gain in GAINS:
            drawn = [lines_of(each, gain, cost) for each in methods]
            drawn = [each for each in drawn if each.lines]
            if drawn:
                views.append(View(_GAIN_NAMES[gain], _frontier(drawn, gain, cost, marks)))
        if views:
            caption = f"Lower and further right is better. {_HOW}"
            charts.append(Chart.of(f"{key}-{cost}", _TITLES[cost], caption, "Gain", views, marks))
    return [chart for chart in charts if chart is not None]


def paths_chart(key: str, result: ComparisonResult, data: str, marks: Mapping[str, Mark]) -> Chart | None:
    """Draw what was measured on held-out data along every run, step by step; None where nothing was."""
    methods = [each for each in methods_of_paths(result.paths, data) if each.method in marks]
    views = []
    for name in (*LOOKS, *GAINS, *COSTS):
        traces = [trace for each in methods for trace in _over_steps(each, name, marks[each.method])]
        if traces:
            drawn = figure(traces, "optimizer step", QUANTITIES[name].title)
            views.append(View(_NAMES.get(name, name), drawn))
    caption = (
        "Means over the same held-out pairs, prompts or windows at every checkpoint; a line a learning rate and seed."
    )
    return Chart.of(key, "Along the runs, on held-out data", caption, "Shown", views, marks)


def _frontier(drawn: Sequence[MethodLines], gain: str, cost: str, marks: Mapping[str, Mark]) -> go.Figure:
    traces = []
    for each in drawn:
        mark = marks[each.method]
        if each.envelope is not None:
            traces += _envelope(each.envelope, mark)
        traces += [_path(line, mark, gain, cost) for line in each.lines]
    x, y = frame_of(drawn)
    ranges = {"xaxis": {"range": list(x)}, "yaxis": {"range": list(y)}}
    return figure(traces, QUANTITIES[gain].title, QUANTITIES[cost].title, **ranges)


def _envelope(envelope: Envelope, mark: Mark) -> list[go.Scatter]:
    traces = []
    if envelope.band:
        gains, low, high = zip(*envelope.band, strict=True)
        traces.append(
            go.Scatter(
                x=[*gains, *gains[::-1]],
                y=[*low, *high[::-1]],
                mode="lines",
                fill="toself",
                fillcolor=faded(mark.colour, 0.15),
                line={"width": 0},
                name=f"{label(mark.method)}, seeds",
                hoverinfo="skip",
                meta=mark.meta("mean"),
            )
        )
    known = [(gain, cost) for gain, cost in zip(envelope.gains, envelope.costs, strict=True) if cost == cost]
    traces.append(
        go.Scatter(
            x=[gain for gain, _ in known],
            y=[cost for _, cost in known],
            mode="lines",
            line={"color": mark.colour, "width": 4},
            opacity=0.8,
            name=f"{label(mark.method)}, least cost",
            meta=mark.meta(None),
        )
    )
    return traces


def _path(line: PathLine, mark: Mark, gain: str, cost: str) -> go.Scatter:
    which = f"{label(mark.method)} at {setting(line.rate)}, {seed_words(line.seed)}"
    return go.Scatter(
        x=list(line.gains),
        y=list(line.costs),
        text=[f"{which}, step {step}" for step in line.steps],
        hovertemplate=f"%{{text}}<br>{_NAMES[gain]} %{{x:.4g}}, {_NAMES[cost]} %{{y:.4g}}<extra></extra>",
        mode="lines+markers",
        name=which,
        line={"color": mark.colour, "width": 1, "dash": "solid" if line.seed is not None else "dot"},
        marker={"symbol": mark.symbol, "size": 6},
        opacity=0.6,
        meta=mark.meta("mean" if line.seed is None else line.seed),
    )


def _over_steps(method: MethodPaths, name: str, mark: Mark) -> list[go.Scatter]:
    traces = []
    for rate, runs in method.rates.items():
        for run in runs:
            steps, values = _means_of(run, name)
            which = f"{label(mark.method)} at {setting(rate)}, {seed_words(run.seed)}"
            if steps:
                traces.append(
                    go.Scatter(
                        x=steps,
                        y=values,
                        text=[f"{which}, step {step}" for step in steps],
                        hovertemplate="%{text}<br>%{y:.4g}<extra></extra>",
                        mode="lines+markers",
                        name=which,
                        line={"color": mark.colour, "width": 1.5},
                        marker={"symbol": mark.symbol, "size": 6},
                        meta=mark.meta(run.seed),
                    )
                )
    return traces


def _means_of(run: RunPath, name: str) -> tuple[list[int], list[float]]:
    """Return steps and means of a quantity along a run; nothing where it was not measured."""
    series = series_of(run.path, name) if run.path is not None else None
    if series is None:
        return [], []
    means = series.means(np.ones((1, series.upper.shape[1])))[0]
    return list(series.steps), [float(value) for value in means]
