"""Gain, KL and forgetting against strength, as a picture that needs no library to be drawn or seen (SVG)."""

from __future__ import annotations

__all__ = ()

from collections.abc import Sequence
from html import escape

from ropo.evaluation.results import Metric, ModelResult

_PANELS = {
    "margin": "DPO margin, nats",
    "kl": "KL from the base, nats per token",
    "forgetting": "forgetting, nats per token",
}
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito's, told apart by all
_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP, _LINE = 250, 190, 60, 34, 80, 14  # pixels


def draw_curves(models: Sequence[ModelResult]) -> str:
    """Draw a panel a metric and a line an adapter, with the intervals as bands.

    Args:
        models: Adapters at strengths, as `ropo.evaluation.strength.measure` returns them.

    Returns:
        The picture as SVG.
    """
    names = list(dict.fromkeys(str(model.details["adapter"]) for model in models))
    width = len(_PANELS) * (_WIDTH + _GAP) + 20
    height = _TOP + _HEIGHT + 50 + 18 * len(names)
    panels = "".join(
        f'<g transform="translate({_LEFT + place * (_WIDTH + _GAP)} {_TOP})">{_panel(models, names, metric, title)}</g>'
        for place, (metric, title) in enumerate(_PANELS.items())
    )
    legend = "".join(
        f'<text x="{_LEFT + 14}" y="{height - 18 * (len(names) - place) + 4}">{escape(name)}</text>'
        f'<rect x="{_LEFT}" y="{height - 18 * (len(names) - place) - 5}" width="9" height="9" fill="{_colour(place)}"/>'
        for place, name in enumerate(names)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f"{panels}{legend}</svg>\n"
    )


def _panel(models: Sequence[ModelResult], names: Sequence[str], metric: str, title: str) -> str:
    """Return one metric's axes and lines."""
    everything = [(model.details["strength"], model.metric(metric)) for model in models]
    ends = [end for _, found in everything for end in _span(found)]
    low, high = min(0.0, *ends), max(0.0, *ends)
    left, right = min(strength for strength, _ in everything), max(strength for strength, _ in everything)

    def x(strength: float) -> float:
        return _WIDTH * (strength - left) / ((right - left) or 1.0)

    def y(value: float) -> float:
        return _HEIGHT * (1 - (value - low) / ((high - low) or 1.0))

    parts = [
        f'<text x="0" y="-12" font-weight="bold">{title}</text>',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#999"/>',
        f'<line x1="0" x2="{_WIDTH}" y1="{y(0.0):.1f}" y2="{y(0.0):.1f}" stroke="#999" stroke-dasharray="3 3"/>',
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT + 34}" text-anchor="middle">strength</text>',
    ]
    for value in (0.0, *(end for end in (low, high) if abs(y(end) - y(0.0)) > _LINE)):
        parts.append(f'<text x="-6" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    for strength in sorted({strength for strength, _ in everything}):
        parts.append(
            f'<text x="{x(strength):.1f}" y="{_HEIGHT + 17}" text-anchor="middle" font-size="10">{strength:g}</text>'
        )
    for place, name in enumerate(names):
        points = [
            (x(model.details["strength"]), model.metric(metric)) for model in models if model.details["adapter"] == name
        ]
        upper = [f"{at:.1f},{y(_span(found)[1]):.1f}" for at, found in points]
        lower = [f"{at:.1f},{y(_span(found)[0]):.1f}" for at, found in reversed(points)]
        line = [f"{at:.1f},{y(found.value or 0.0):.1f}" for at, found in points]
        colour = _colour(place)
        parts.append(f'<polygon points="{" ".join([*upper, *lower])}" fill="{colour}" opacity="0.2"/>')
        parts.append(f'<polyline points="{" ".join(line)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{at.split(",")[0]}" cy="{at.split(",")[1]}" r="3" fill="{colour}"/>' for at in line]
    return "".join(parts)


def _span(found: Metric) -> tuple[float, float]:
    """Return the ends of a metric's interval, or its value twice where it has none."""
    value = found.value or 0.0
    return (value if found.low is None else found.low), (value if found.high is None else found.high)


def _colour(place: int) -> str:
    return _COLOURS[place % len(_COLOURS)]
