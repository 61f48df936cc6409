"""What equal gains cost, in words and in rows: for the page's head and the end of `ropo compare`."""

from __future__ import annotations

__all__ = ()

from collections.abc import Sequence

from ropo.comparison.results import Bounds, ComparisonResult, EqualGain
from ropo.report.text import number

GAIN_WORDS = {"pass": "pass rate", "loss": "DPO loss", "margin": "DPO margin"}
COST_WORDS = {"forgetting": "forgetting, nats per token", "kl": "KL, nats per token", "length": "growth, tokens"}
_COST_NAMES = {"forgetting": "forgetting", "kl": "KL", "length": "growth of answers"}
FIRST = ("pass", "loss")  # gains that a headline is about; a margin grows while a model breaks


def equal_gains_of(result: ComparisonResult, data: str) -> list[EqualGain]:
    """Return what is known of a data set."""
    return [each for each in result.equal_gains if each.data == data]


def headlines(found: Sequence[EqualGain]) -> list[str]:
    """Say for each method what it pays for the whole of the gain that it and the other method both reach."""
    grouped: dict[tuple[str, str], list[EqualGain]] = {}
    for each in found:
        if each.share == 1.0 and each.gain in FIRST:
            grouped.setdefault((each.method, each.gain), []).append(each)
    return [_sentence(each) for each in grouped.values()]


def _sentence(costs: Sequence[EqualGain]) -> str:
    """Write the costs of one equal gain in words, each with how sure it is and what is behind it."""
    first = costs[0]
    told = [
        f"{_COST_NAMES[each.cost]} {number(each.value.value)} against {number(each.other.value)}, {verdict(each)} "
        f"({_signed(each.difference.value)}{_interval(each.difference)}; n = {behind(each)})"
        for each in costs
    ]
    return (
        f"{first.method} against {first.against} at an equal gain in {GAIN_WORDS[first.gain]} of "
        f"{number(first.level)}, all that both reach: {'; '.join(told)}."
    )


def verdict(each: EqualGain) -> str:
    """Say whether the difference is told from 0."""
    difference = each.difference
    if difference.value is None or difference.low is None or difference.high is None:
        return "not decided"
    if difference.low <= 0 <= difference.high:
        return "not told apart"
    return "less" if difference.high < 0 else "more"


def behind(each: EqualGain) -> str:
    """Say how many units and seeds are behind a comparison."""
    units = ", ".join(f"{count} {unit}" for unit, count in each.units.items())
    seeds = f"{each.seeds[0]} seed{'s' if each.seeds[0] != 1 else ''}"
    if each.seeds[0] != each.seeds[1]:
        seeds += f" against {each.seeds[1]}"
    lost = "" if each.draws[0] == each.draws[1] else f", defined in {each.draws[0]} of {each.draws[1]} resamples"
    return f"{units}, {seeds}{lost}"


def _signed(value: float | None) -> str:
    """Write a change with its sign."""
    return number(value) if value is None or value <= 0 else f"+{number(value)}"


def _interval(found: Bounds) -> str:
    """Write an interval in brackets, nothing where there is none."""
    if found.low is None or found.high is None:
        return ""
    return f" [{_signed(found.low)}, {_signed(found.high)}]"
