"""The frontiers as one SVG file: the figure of the page for places where no script runs, such as a README."""

from __future__ import annotations

__all__ = ["write_frontier"]

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ropo.comparison.frontier.curves import methods_of_paths
from ropo.comparison.frontier.lines import MethodLines, frame_of, lines_of
from ropo.comparison.frontier.quantities import COSTS, GAINS
from ropo.comparison.results import ComparisonResult
from ropo.core.errors import UserError
from ropo.core.files import write_atomically
from ropo.report.figures.style import Mark, marks_of
from ropo.report.text import label, seed_words, setting

_WIDTH, _HEIGHT = 330, 250  # of a panel's plot
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 30, 44  # around it
_LEGEND = 26
_TEXT, _QUIET, _GRID = "#1b1e23", "#5b626b", "#e3e6ea"
_GAINS = {"pass": "gain in pass rate", "loss": "drop of the DPO loss, nats", "margin": "DPO margin, nats"}
_COSTS = {
    "forgetting": "plain-text loss, rise in nats/token",
    "kl": "KL, nats/token",
    "length": "growth of answers, tokens",
}


def write_frontier(result: ComparisonResult, file: Path, data: str | None = None) -> None:
    """Write the frontiers of a data set as an SVG file, whole or not at all.

    Args:
        result: The comparison.
        file: Where the figure goes.
        data: Name of the data set; None for the first with paths.

    Raises:
        UserError: If the comparison has no frontier.
    """
    write_atomically(file, frontier_svg(result, data))


def frontier_svg(result: ComparisonResult, data: str | None = None) -> str:
    """Return the frontiers of a data set as SVG: a row for each gain, a column for each cost.

    Args:
        result: The comparison.
        data: As in `write_frontier`.

    Raises:
        UserError: If there is nothing to draw.
    """
    known = list(dict.fromkeys(run.data for run in result.paths if run.path is not None))
    name = data or (known[0] if known else "")
    if not known:
        raise UserError("figure: the comparison has no frontier to draw; give its recipe a part `frontier`")
    if name not in known:
        raise UserError(f"figure: there is no frontier of {name!r}; there are {', '.join(known)}")
    methods, marks = methods_of_paths(result.paths, name), marks_of(result)
    panels: dict[tuple[str, str], list[MethodLines]] = {}
    for gain in ("pass", "loss"):
        for cost in COSTS:
            drawn = [each for each in (lines_of(method, gain, cost) for method in methods) if each.lines]
            if drawn:
                panels[gain, cost] = drawn
    gains = [gain for gain in GAINS if any(key[0] == gain for key in panels)]
    costs = [cost for cost in COSTS if any(key[1] == cost for key in panels)]
    cell = (_LEFT + _WIDTH + _RIGHT, _TOP + _HEIGHT + _BOTTOM)
    parts = [_legend([marks[method.method] for method in methods if method.rates and method.method in marks])]
    for (gain, cost), drawn in panels.items():
        x, y = costs.index(cost) * cell[0], _LEGEND + gains.index(gain) * cell[1]
        parts.append(f'<g transform="translate({x + _LEFT},{y + _TOP})">{_panel(drawn, gain, cost, marks)}</g>')
    width, height = len(costs) * cell[0], _LEGEND + len(gains) * cell[1]
    about = f"{label(result.title)}: gain against forgetting, KL and length"
    style = f'font-family="system-ui, sans-serif" font-size="11" fill="{_TEXT}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'{style} role="img" aria-label="{_attribute(about)}">'
        f'<title>{about}</title><rect width="{width}" height="{height}" fill="#ffffff"/>'
        f'<clipPath id="frame"><rect width="{_WIDTH}" height="{_HEIGHT}"/></clipPath>{"".join(parts)}</svg>\n'
    )


@dataclass(frozen=True)
class _Axis:
    """Map values to pixels."""

    low: float
    high: float
    length: float
    turned: bool = False

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.length * (1 - share if self.turned else share), 2)

    def ticks(self) -> list[float]:
        """Return four to eight round values."""
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * each for each in (1, 2, 5, 10) if power * each >= rough)
        first = math.ceil(self.low / step)
        return [number * step for number in range(first, math.floor(self.high / step) + 1)]


def _panel(drawn: Sequence[MethodLines], gain: str, cost: str, marks: Mapping[str, Mark]) -> str:
    gains, costs = frame_of(drawn)
    x, y = _Axis(*gains, _WIDTH), _Axis(*costs, _HEIGHT, turned=True)
    parts = [f'<text x="0" y="-10" font-size="13" font-weight="600">{_COSTS[cost]}</text>', _grid(x, y)]
    parts.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT + 34}" text-anchor="middle">{_GAINS[gain]}</text>')
    parts.append('<g clip-path="url(#frame)">')
    for each in drawn:
        colour = marks[each.method].colour
        envelope = each.envelope
        if envelope is not None and envelope.band:
            around = [(g, low) for g, low, _ in envelope.band] + [(g, high) for g, _, high in envelope.band[::-1]]
            parts.append(f'<polygon points="{_points(around, x, y)}" fill="{colour}" fill-opacity="0.15"/>')
        for line in each.lines:
            title = f"{label(each.method)} at {setting(line.rate)}, {seed_words(line.seed)}"
            places = list(zip(line.gains, line.costs, strict=True))
            dots = "".join(
                f'<circle cx="{x.at(g)}" cy="{y.at(c)}" r="2"><title>{title}, step {step}</title></circle>'
                for step, (g, c) in zip(line.steps, places, strict=True)
            )
            parts.append(
                f'<g stroke="{colour}" fill="{colour}" opacity="0.45"><title>{title}</title>'
                f'<polyline points="{_points(places, x, y)}" fill="none" stroke-width="1"/>{dots}</g>'
            )
        if envelope is not None:
            least = [(g, c) for g, c in zip(envelope.gains, envelope.costs, strict=True) if math.isfinite(c)]
            parts.append(f'<polyline points="{_points(least, x, y)}" fill="none" stroke="{colour}" stroke-width="3"/>')
    return "".join(parts) + "</g>"


def _grid(x: _Axis, y: _Axis) -> str:
    parts = [f'<g stroke="{_GRID}">']
    parts += [f'<path d="M{x.at(tick)} 0V{_HEIGHT}"/>' for tick in x.ticks()]
    parts += [f'<path d="M0 {y.at(tick)}H{_WIDTH}"/>' for tick in y.ticks()]
    parts.append(f'</g><path d="M0 {y.at(0)}H{_WIDTH}M{x.at(0)} 0V{_HEIGHT}" stroke="{_QUIET}" fill="none"/>')
    parts.append(f'<g fill="{_QUIET}">')
    parts += [
        f'<text x="{x.at(tick)}" y="{_HEIGHT + 15}" text-anchor="middle">{_tick(tick)}</text>' for tick in x.ticks()
    ]
    parts += [f'<text x="-6" y="{y.at(tick) + 4}" text-anchor="end">{_tick(tick)}</text>' for tick in y.ticks()]
    return "".join(parts) + "</g>"


def _legend(marks: Sequence[Mark]) -> str:
    parts, x = [], float(_LEFT)
    for mark in marks:
        name = label(mark.method)
        parts.append(
            f'<path d="M{x} 14h20" stroke="{mark.colour}" stroke-width="3"/><text x="{x + 25}" y="18">{name}</text>'
        )
        x += 45 + 6.5 * len(mark.method)
    parts.append(f'<text x="{x}" y="18" fill="{_QUIET}">thick: least cost of a gain; thin: each rate and seed</text>')
    return "".join(parts)


def _points(places: Iterable[tuple[float, float]], x: _Axis, y: _Axis) -> str:
    return " ".join(f"{x.at(gain)},{y.at(cost)}" for gain, cost in places)


def _tick(value: float) -> str:
    return f"{value:.4g}".replace("-", "−") if abs(value) > 1e-12 else "0"


def _attribute(text: str) -> str:
    return text.replace('"', "&quot;")
