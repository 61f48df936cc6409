"""What training did to the weights: energy layer by layer, cosines between neurons, and their places on a plane."""

from __future__ import annotations

__all__ = ()

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from ropo.comparison.results import CosineHistogram, RunResult
from ropo.comparison.summary import MethodRuns
from ropo.diagnostics.weights import LayerMeasure
from ropo.report.figures.style import GREY, Chart, Mark, View, faded, figure
from ropo.report.text import label, number

# Relative changes below are rounding: float32 holds each weight to 6e-8, and those errors only average out in a sum.
_ROUNDING = 1e-7
_VISIBLE = 0.01  # less is within a line's width


def energy_chart(key: str, methods: Sequence[MethodRuns], marks: Mapping[str, Mark]) -> Chart | None:
    """Draw the hyperspherical energy of each layer before and after, and its relative change, of what changed it.

    Runs that keep it to rounding are in `weights_in_words`; a kind of layer that no other run changed is not drawn.
    """
    runs = [run for method in methods for run in method.runs if _largest_change(run) >= _ROUNDING]
    kinds = dict.fromkeys(_kind(layer) for run in runs for layer in _layers(run))
    views = [View(f"{kind}: relative change", _changes(runs, kind, marks)) for kind in kinds]
    views += [
        View(f"{kind}: size of the change, logarithmic", _changes(runs, kind, marks, size=True)) for kind in kinds
    ]
    apart = [kind for kind in kinds if any(_largest_change(run, kind) >= _VISIBLE for run in runs)]
    views += [View(f"{kind}: before and after", _energies(runs, kind, marks)) for kind in apart]
    caption = (
        "Lower is more evenly spread, higher is collapsing. The change is (after - before) / before; before, dotted, "
        "is after / (1 + change). A logarithmic axis cannot show a change of exactly 0."
    )
    return Chart.of(key, "Hyperspherical energy by layer, before and after", caption, "Layers", views, marks)


def cosines_chart(key: str, methods: Sequence[MethodRuns], marks: Mapping[str, Mark]) -> Chart | None:
    """Draw the distribution of the cosines between a layer's neurons before and after, of runs that changed it."""
    runs = [run for method in methods for run in method.runs if run.cosines]
    layers = dict.fromkeys(each.layer for run in runs for each in run.cosines if _moved(each) >= _VISIBLE)
    caption = "Pairs of neurons by their cosine; the reference is dotted. A tail that grows to the right is collapse."
    views = [View(layer, _histograms(runs, layer, marks)) for layer in layers]
    return Chart.of(key, "Cosines between neurons", caption, "Layer", views, marks)


def weights_in_words(methods: Sequence[MethodRuns]) -> list[str]:
    """Say what the charts leave out: changes of the size of rounding, and lines that would lie on each other."""
    lines = []
    for method in methods:
        runs = [run for run in method.runs if _layers(run)]
        largest = max(map(_largest_change, runs), default=None)
        if largest is not None and largest < _ROUNDING:
            lines.append(
                f"{method.method}: energy unchanged to rounding in all layers (largest relative change "
                f"{number(largest)}); not drawn."
            )
        moved = [_moved(each) for run in method.runs for each in run.cosines]
        if moved and max(moved) < _VISIBLE:
            lines.append(
                f"{method.method}: cosines between neurons are distributed as before (at most "
                f"{100 * max(moved):.2g} % of the pairs changed their bin); its lines would lie on the reference's and "
                "are not drawn."
            )
    return lines


def neurons_chart(key: str, methods: Sequence[MethodRuns], marks: Mapping[str, Mark]) -> Chart | None:
    """Draw a layer's neurons on two principal axes of the reference, before and after, run by run; None without any."""
    runs = [run for method in methods for run in method.runs if run.neurons is not None]
    views = [
        View(f"{run.method}, seed {run.seed}, {run.neurons.layer}", _places(run, marks[run.method]))
        for run in runs
        if run.neurons
    ]
    caption = "Normalised neurons on the two principal axes of the untrained layer: before hollow, after filled."
    return Chart.of(key, "Neurons on a plane", caption, "Run", views, marks)


def _largest_change(run: RunResult, kind: str | None = None) -> float:
    """Return the largest relative change of energy, of one kind of layer or of all; 0 where there is none."""
    layers = [layer for layer in _layers(run) if kind in (None, _kind(layer))]
    return max((abs(_change(layer) or 0.0) for layer in layers), default=0.0)


def _moved(histogram: CosineHistogram) -> float:
    """Return the share of the pairs whose bin changed, as far as the counts tell."""
    pairs = sum(histogram.before)
    moved = sum(abs(after - before) for before, after in zip(histogram.before, histogram.after, strict=True)) / 2
    return moved / pairs if pairs else 0.0


def _layers(run: RunResult) -> list[LayerMeasure]:
    return [] if run.diagnosis is None else [layer for layer in run.diagnosis.layers if _change(layer) is not None]


def _change(layer: LayerMeasure) -> float | None:
    return None if layer.change is None else layer.change.energy


def _kind(layer: LayerMeasure) -> str:
    return layer.name.rpartition(".")[2]


def _number(layer: LayerMeasure) -> int:
    """Return the number of the block that a layer is in: the first number in its name."""
    return next((int(part) for part in layer.name.split(".") if part.isdigit()), 0)


def _of_kind(run: RunResult, kind: str) -> list[LayerMeasure]:
    return sorted((layer for layer in _layers(run) if _kind(layer) == kind), key=_number)


def _changes(runs: Sequence[RunResult], kind: str, marks: Mapping[str, Mark], size: bool = False) -> go.Figure:
    traces, blocks = [], {0}
    for run in runs:
        layers = _of_kind(run, kind)
        changes = [_change(layer) or 0.0 for layer in layers]
        blocks |= set(map(_number, layers))
        if layers:
            traces.append(
                _line(
                    run,
                    marks[run.method],
                    list(map(_number, layers)),
                    [abs(each) if size else each for each in changes],
                )
            )
    axis = {"exponentformat": "e", "type": "log" if size else "linear"}
    y = "size of the relative change of energy" if size else "relative change of energy"
    return figure(traces, f"block of {kind}", y, xaxis=_whole(blocks), yaxis=axis)


def _energies(runs: Sequence[RunResult], kind: str, marks: Mapping[str, Mark]) -> go.Figure:
    traces: list[go.Scatter] = []
    before: dict[int, float] = {}
    for run in runs:
        layers = _of_kind(run, kind)
        before |= {_number(layer): layer.weight.energy / (1.0 + (_change(layer) or 0.0)) for layer in layers}
        if layers:
            after = [layer.weight.energy for layer in layers]
            traces.append(_line(run, marks[run.method], [_number(layer) for layer in layers], after))
    traces.append(_before(sorted(before), [before[place] for place in sorted(before)]))
    return figure(traces, f"block of {kind}", "hyperspherical energy", xaxis=_whole(before))


def _whole(blocks: Collection[int]) -> dict[str, Any]:
    """Keep the ticks on whole blocks."""
    return {"tick0": 0, "dtick": max(1, max(blocks) // 10)}


def _histograms(runs: Sequence[RunResult], layer: str, marks: Mapping[str, Mark]) -> go.Figure:
    found = [(run, each) for run in runs for each in run.cosines if each.layer == layer and _moved(each) >= _VISIBLE]
    traces = [_line(run, marks[run.method], _middles(each), each.after) for run, each in found]
    first = found[0][1]
    traces.append(_before(_middles(first), first.before))
    used = [
        middle
        for _, each in found
        for middle, *counts in zip(_middles(each), each.before, each.after, strict=True)
        if any(counts)
    ]
    span = [min(used) - 0.02, max(used) + 0.02] if used else [-1, 1]
    return figure(traces, "cosine of two neurons", "pairs", xaxis={"range": span}, yaxis={"type": "log"})


def _middles(histogram: CosineHistogram) -> list[float]:
    return [(low + high) / 2 for low, high in zip(histogram.edges, histogram.edges[1:], strict=False)]


def _places(run: RunResult, mark: Mark) -> go.Figure:
    assert run.neurons is not None
    before, after, explained = run.neurons.before, run.neurons.after, run.neurons.explained
    lines: tuple[list[float | None], list[float | None]] = ([], [])
    for old, new in zip(before, after, strict=True):
        for axis in (0, 1):
            lines[axis].extend((old[axis], new[axis], None))
    shared = {"mode": "markers", "meta": mark.meta(run.seed)}
    traces = [
        go.Scatter(
            x=lines[0],
            y=lines[1],
            mode="lines",
            line={"color": faded(mark.colour, 0.4), "width": 1},
            name="moved",
            hoverinfo="skip",
            meta=mark.meta(run.seed),
        ),
        go.Scatter(
            x=[each[0] for each in before],
            y=[each[1] for each in before],
            name="before",
            marker={"color": GREY, "symbol": "circle-open", "size": 6},
            **shared,
        ),
        go.Scatter(
            x=[each[0] for each in after],
            y=[each[1] for each in after],
            name="after",
            marker={"color": mark.colour, "symbol": "circle", "size": 5},
            **shared,
        ),
    ]
    x, y = (f"axis {number + 1}: {100 * share:.1f} % of the variance" for number, share in enumerate(explained))
    return figure(traces, x, y, yaxis={"scaleanchor": "x", "title": {"standoff": 14}})


def _line(run: RunResult, mark: Mark, x: Sequence[Any], y: Sequence[Any]) -> go.Scatter:
    return go.Scatter(
        x=list(x),
        y=list(y),
        mode="lines+markers" if len(x) < 60 else "lines",
        name=f"{label(run.method)}, seed {run.seed}",
        line={"color": mark.colour, "width": 1.5},
        marker={"symbol": mark.symbol, "size": 6},
        meta=mark.meta(run.seed),
    )


def _before(x: Sequence[Any], y: Sequence[Any]) -> go.Scatter:
    return go.Scatter(
        x=list(x), y=list(y), mode="lines", name="before", line={"color": GREY, "dash": "dot", "width": 2}
    )
