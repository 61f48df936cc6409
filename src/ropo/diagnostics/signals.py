"""Name what went wrong: the warnings, and the numbers and odds that trigger them."""

from __future__ import annotations

__all__ = ["FEWEST"]

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ropo.core.intervals import chance_of_rise

SURE = 0.01  # a change of the sample that comes by chance more often than this is no warning
FEWEST = math.ceil(-math.log2(SURE))  # units below which no change can be that sure (`chance_of_rise`)


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
