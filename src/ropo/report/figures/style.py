"""What all figures share: a colour and a mark for each method, and figures that the reader switches between."""

from __future__ import annotations

__all__ = ()

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go

from ropo.comparison.recipe import REFERENCE
from ropo.comparison.results import ComparisonResult
from ropo.report.text import label

# All reach a contrast of 3 on the page's white and on its black.
COLOURS = ("#2f7ed8", "#d9660f", "#23936b", "#c2498a", "#8061cf", "#9a7d0a", "#0e8fa3", "#d0433f")
GREY = "#808488"
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon", "triangle-down")
_SVG = ("●", "■", "◆", "▲", "✚", "★", "⬢", "▼")


@dataclass(frozen=True)
class Mark:
    """Say how a method is drawn everywhere, by colour and by shape."""

    method: str
    key: str
    colour: str
    symbol: str
    sign: str

    def meta(self, seed: int | str | None) -> dict[str, Any]:
        """Return what the page's script picks traces by: a seed, `mean` for what is over all, None for always."""
        return {"method": self.key, "seed": seed}


@dataclass(frozen=True)
class View:
    """One state of a figure."""

    label: str
    figure: go.Figure

    def as_json(self) -> dict[str, Any]:
        """Return it for the page's script."""
        drawn = json.loads(self.figure.to_json())
        return {
            "data": drawn["data"],
            "layout": {name: each for name, each in drawn["layout"].items() if name != "template"},
        }


@dataclass(frozen=True)
class Chart:
    """A figure with its states, of which the reader chooses one.

    Attributes:
        key: Unique on the page.
        title: What it shows.
        caption: How to read it; plain text.
        choice: What the states differ in, for the label of the choice.
        views: The states, at least one: what has nothing to draw is no chart.
        legend: The methods that are drawn, in the order of the page.
    """

    key: str
    title: str
    caption: str
    choice: str
    views: Sequence[View]
    legend: Sequence[Mark] = field(default_factory=tuple)

    @classmethod
    def of(
        cls, key: str, title: str, caption: str, choice: str, views: Sequence[View], marks: Mapping[str, Mark]
    ) -> Chart | None:
        """Return a chart with the legend of the methods that its views draw; None without a view."""
        used = {(trace.meta or {}).get("method") for view in views for trace in view.figure.data}
        legend = tuple(mark for mark in marks.values() if mark.key in used)
        return cls(key, title, caption, choice, views, legend) if views else None


def marks_of(result: ComparisonResult) -> dict[str, Mark]:
    """Give each method of a comparison its mark, the same for all data sets."""
    methods = dict.fromkeys(run.method for run in result.runs)
    trained = [method for method in methods if method != REFERENCE]
    marks = {REFERENCE: Mark(REFERENCE, "m0", GREY, "x", "✕")} if REFERENCE in methods else {}
    for number, method in enumerate(trained):
        place = number % len(COLOURS)
        shape = (number + number // len(COLOURS)) % len(_SYMBOLS)
        marks[method] = Mark(method, f"m{number + 1}", COLOURS[place], _SYMBOLS[shape], _SVG[shape])
    return marks


def figure(traces: Iterable[go.Scatter], x: str, y: str, **layout: Any) -> go.Figure:
    """Return a figure with named axes; colours of text and grid are the page's, by its theme."""
    drawn = go.Figure(data=list(traces), layout={"showlegend": False, "hovermode": "closest", **layout})
    drawn.update_xaxes(title_text=label(x), automargin=True)
    drawn.update_yaxes(title_text=label(y), automargin=True)
    return drawn


def faded(colour: str, share: float) -> str:
    """Return a colour with an opacity."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{share})"
