"""Name what went wrong: the warnings, the numbers and odds that trigger them, and what to try."""

from __future__ import annotations

__all__ = ["FEWEST", "advise", "triggered"]

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ropo.core.intervals import chance_of_rise

SURE = 0.01  # a change of the sample that comes by chance more often than this is no warning
FEWEST = math.ceil(-math.log2(SURE))  # units below which no change can be that sure (`chance_of_rise`)
# Chosen, not fitted: where a policy's own answers are this many nats per token from its reference, the run went far,
# and ending it sooner comes before changing its loss; and length explains a reward from this correlation on.
FAR, BY_LENGTH = 0.1, 0.2
_HELD_UP = "--rpo_alpha 1 with half the --learning_rate"  # and more steps: docs/remedies.md, Measured
Numbers = Mapping[str, float]


@dataclass(frozen=True)
class Reading:
    """A measured number, and the changes of the sampled units that it sums up; None where it is no sample."""

    value: float
    changes: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Signal:
    """Define a warning.

    Attributes:
        name: Its name in logs.
        measure: The number that it watches.
        threshold: It triggers where the number is above this (below it where `falls`), and sure to have changed.
        meaning: What has happened, with a place for the number.
        falls: Whether a low number is the bad one.
    """

    name: str
    measure: str
    threshold: float
    meaning: str
    falls: bool = False

    def chance(self, reading: Reading) -> float:
        """Return how likely a change as bad as this one would be by chance; 0 for what is counted, not sampled."""
        if reading.changes is None:
            return 0.0
        return chance_of_rise(np.array(reading.changes) * (-1.0 if self.falls else 1.0))

    def triggers(self, reading: Reading) -> bool:
        """Tell whether a number is past the threshold, and more than chance."""
        value = reading.value
        past = value < self.threshold if self.falls else value > self.threshold
        return past and self.chance(reading) <= SURE

    def describe(self, reading: Reading) -> str:
        """Say in one sentence what has happened, with the number, the threshold and the odds."""
        bound = "below" if self.falls else "above"
        odds = "" if reading.changes is None else f", by chance with p = {self.chance(reading):.1g}"
        return f"{self.name}: {self.meaning.format(reading.value)} (warns {bound} {self.threshold:g}{odds})"


# Every number is a change against the reference, so that what the reference does already is nobody's fault. The
# thresholds are chosen, not fitted: no healthy and hacked runs have been compared yet (docs/diagnostics.md).
SIGNALS = (
    Signal(
        "rejected_collapse",
        "rejected_change_per_token",
        -1.0,
        "rejected answers changed by {:.2f} nats per token",
        falls=True,
    ),
    Signal(
        "displacement",
        "chosen_change_per_token",
        -0.1,
        "chosen answers changed by {:.2f} nats per token",
        falls=True,
    ),
    Signal("length_growth", "length_ratio", 1.5, "answers are {:.2f} times as long as the reference's"),
    Signal("repetition", "repetition_rise", 0.2, "the share of repeated 4-grams within an answer rose by {:.2f}"),
    Signal("neuron_collapse", "collapsed_pairs", 0.0, "{:.0f} pairs of neurons became nearly parallel (cosine > 0.9)"),
    Signal("forgetting", "text_loss_rise", 0.2, "the loss on plain text rose by {:.2f} nats per token"),
)


def triggered(readings: Mapping[str, Reading], signals: Sequence[Signal] = SIGNALS) -> list[Signal]:
    """Return the signals that the measured numbers trigger; what was not measured triggers nothing."""
    return [signal for signal in signals if signal.measure in readings and signal.triggers(readings[signal.measure])]


def advise(name: str, readings: Mapping[str, Reading]) -> str:
    """Say what to try against a warning; docs/remedies.md has a section for each.

    Returns:
        The end of the warning's sentence; nothing for a warning of somebody else.
    """
    rule = _RULES.get(name)
    if rule is None:
        return ""
    flags, why = rule({each: reading.value for each, reading in readings.items()})
    return f"; try {flags} ({why})"


def _displacement(numbers: Numbers) -> tuple[str, str]:
    chosen, rejected = numbers["chosen_change_per_token"], numbers["rejected_change_per_token"]
    both = f"chosen {chosen:+.2f}, rejected {rejected:+.2f} nats per token"
    if rejected < chosen:
        return _HELD_UP, f"{both}: the chosen answers pay for the margin"
    return f"a lower --learning_rate or {_budget(numbers)}", f"{both}: no margin is gained by it"


def _rejected_collapse(numbers: Numbers) -> tuple[str, str]:
    chosen = numbers["chosen_change_per_token"]
    if chosen < 0:
        return _HELD_UP, f"chosen {chosen:+.2f} nats per token: both are pushed down"
    smoothed = "--loss_type cdpo --label_smoothing 0.1"
    return f"{smoothed} or --loss_type ipo", f"chosen {chosen:+.2f} nats per token: the margin has no end"


def _length_growth(numbers: Numbers) -> tuple[str, str]:
    correlation = numbers.get("length_reward_correlation")
    if correlation is not None and correlation < BY_LENGTH:
        why = f"reward and length correlate by {correlation:+.2f}: it is not what the pairs reward"
        return f"{_HELD_UP} or {_budget(numbers)}", why
    known = "" if correlation is None else f", reward and length correlate by {correlation:+.2f}"
    flags = "--rpo_alpha 1 on pairs of equal lengths or --rpo_alpha 1 --rdpo_alpha 0.01"
    return flags, f"{numbers['length_ratio']:.2f} times as long{known}"


def _repetition(numbers: Numbers) -> tuple[str, str]:
    kl, correlation = numbers.get("kl_per_token"), numbers.get("length_reward_correlation")
    if correlation is not None and correlation >= BY_LENGTH:
        why = f"reward and length correlate by {correlation:+.2f}: a second copy makes an answer longer"
        return "--loss_type sigmoid_norm --beta 5", why
    if kl is not None and kl > FAR:
        return f"{_budget(numbers)} or a lower --learning_rate", f"KL {kl:.3g} nats per token: it went far"
    why = "no KL was measured" if kl is None else f"KL {kl:.3g} nats per token: it did not go far"
    return "--rpo_alpha 1 or --ema_decay 0.95", why


def _forgetting(numbers: Numbers) -> tuple[str, str]:
    rise, kl = numbers["text_loss_rise"], numbers.get("kl_per_token")
    sooner = "" if kl is None or kl <= FAR else f" or {_budget(numbers)}"
    known = "" if kl is None else f", KL {kl:.3g} nats per token"
    return f"--anchor_text FILE{sooner}", f"{rise:+.2f} nats per token on plain text{known}"


def _neuron_collapse(numbers: Numbers) -> tuple[str, str]:
    why = f"{numbers['collapsed_pairs']:.0f} pairs, and a rotation keeps every angle"
    return "--method ropo or a lower --learning_rate", why


def _budget(numbers: Numbers) -> str:
    """Return the flag that ends a run at half of its divergence, or at a usual one where that is not known."""
    kl = numbers.get("kl_per_token")
    return f"--stop_at_kl {FAR if kl is None or kl <= 0 else kl / 2:.1g}"


_RULES: dict[str, Callable[[Numbers], tuple[str, str]]] = {
    "rejected_collapse": _rejected_collapse,
    "displacement": _displacement,
    "length_growth": _length_growth,
    "repetition": _repetition,
    "neuron_collapse": _neuron_collapse,
    "forgetting": _forgetting,
}
