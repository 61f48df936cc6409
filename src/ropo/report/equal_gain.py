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
    """Say for each method what it pays for the whole of the gain that it and the other method both reach.

    Where fewer checkpoints answered prompts than read text, the gain that both reach differs from cost to cost; costs
    of one gain are in one sentence.
    """
    grouped: dict[tuple[str, str], dict[float, list[EqualGain]]] = {}
    for each in found:
        if each.share == 1.0 and each.gain in FIRST:
            grouped.setdefault((each.method, each.gain), {}).setdefault(each.level, []).append(each)
    return [_sentence(costs, len(levels) > 1) for levels in grouped.values() for costs in levels.values()]


def _sentence(costs: Sequence[EqualGain], one_of_several: bool) -> str:
    """Write the costs of one equal gain in words, each with how sure it is and what is behind it."""
    first = costs[0]
    where = " at the checkpoints where this was measured" if one_of_several else ""
    told = [
        f"{_COST_NAMES[each.cost]} {number(each.value.value)} against {number(each.other.value)}, {verdict(each)} "
        f"({_signed(each.difference.value)}{_interval(each.difference)}; n = {behind(each)})"
        for each in costs
    ]
    return (
        f"{first.method} against {first.against} at an equal gain in {GAIN_WORDS[first.gain]} of "
        f"{number(first.level)}, all that both reach{where}: {'; '.join(told)}."
    )


def verdict(each: EqualGain) -> str:
    """Say whether the difference is told from 0."""
    difference = each.difference
    if difference.value is None or difference.low is None or difference.high is None:
        return "not decided"
    if difference.low <= 0 <= difference.high:
        return "not told apart"
    return "less" if difference.high < 0 else "more"


def behind(*found: EqualGain) -> str:
    """Say how many units and seeds are behind a comparison, or behind several of the same two methods."""
    first = found[0]
    counts = {unit: count for each in found for unit, count in each.units.items()}
    units = ", ".join(f"{count} {unit}" for unit, count in counts.items())
    seeds = f"{first.seeds[0]} seed{'s' if first.seeds[0] != 1 else ''}"
    if first.seeds[0] != first.seeds[1]:
        seeds += f" against {first.seeds[1]}"
    defined = sorted({each.draws[0] for each in found})
    if defined == [first.draws[1]]:
        return f"{units}, {seeds}"
    least_to_most = " to ".join(map(str, dict.fromkeys((defined[0], defined[-1]))))
    return f"{units}, {seeds}, defined in {least_to_most} of {first.draws[1]} resamples"


def _signed(value: float | None) -> str:
    """Write a change with its sign."""
    return number(value) if value is None or value <= 0 else f"+{number(value)}"


def _interval(found: Bounds) -> str:
    """Write an interval in brackets, nothing where there is none."""
    if found.low is None or found.high is None:
        return ""
    return f" [{_signed(found.low)}, {_signed(found.high)}]"
