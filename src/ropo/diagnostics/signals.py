"""Name what went wrong: the warnings and the numbers that trigger them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Signal:
    """Define a warning.

    Attributes:
        name: Its name in logs.
        measure: The number that it watches.
        threshold: It triggers where the number is above this (below it where `falls`).
        meaning: What has happened, with a place for the number.
        falls: Whether a low number is the bad one.
    """

    name: str
    measure: str
    threshold: float
    meaning: str
    falls: bool = False

    def triggers(self, value: float) -> bool:
        """Tell whether a number triggers the warning."""
        return value < self.threshold if self.falls else value > self.threshold

    def describe(self, value: float) -> str:
        """Say in one sentence what has happened, with the number and the threshold."""
        bound = "below" if self.falls else "above"
        return f"{self.name}: {self.meaning.format(value)} (warns {bound} {self.threshold:g})"


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


def triggered(measures: Mapping[str, float], signals: Sequence[Signal] = SIGNALS) -> list[Signal]:
    """Return the signals that the measured numbers trigger; what was not measured triggers nothing."""
    return [signal for signal in signals if signal.measure in measures and signal.triggers(measures[signal.measure])]
