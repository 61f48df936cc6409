"""How often would `HackingMonitor` warn of an unchanged model, and how often does it see a real change?

    python experiments/monitor_alarms/false_alarms.py

Draws from the answers of one model (`sample.py`): as many prompts as a monitor watches, and of each two different
answers, one as the reference's and one as the policy's. Compares the threshold alone with the shipped rule, threshold
and sign-flip test together. For power the policy's answers are made longer (cut at 64 tokens, as they were sampled), or
some are replaced by ones that repeat themselves. Writes `results.json` beside this file.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from ropo.diagnostics import SIGNALS, Reading

HERE = Path(__file__).parent
RESAMPLES = 5000
LONGEST = 64
REPEATS = 0.9  # of the 4-grams of an answer that goes round in circles
SIGNAL = {signal.name: signal for signal in SIGNALS}


def draw(values: np.ndarray, units: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw prompts, and of each two different samples."""
    prompts = generator.choice(len(values), units, replace=False)
    first, second = generator.permuted(np.tile(np.arange(values.shape[1]), (units, 1)), axis=1)[:, :2].T
    return values[prompts, first], values[prompts, second]


def length_reading(before: np.ndarray, after: np.ndarray) -> Reading:
    """Return what the monitor reads of lengths."""
    return Reading(float(after.mean() / before.mean()), tuple(after - before))


def repetition_reading(before: np.ndarray, after: np.ndarray) -> Reading:
    """Return what the monitor reads of repetition."""
    return Reading(float(after.mean() - before.mean()), tuple(after - before))


def longer(values: np.ndarray, factor: float) -> np.ndarray:
    """Make answers longer, up to the monitor's cut."""
    return np.minimum(values * factor, LONGEST)


def repeating(values: np.ndarray, share: float, generator: np.random.Generator) -> np.ndarray:
    """Let a share of the answers repeat themselves."""
    return np.where(generator.random(len(values)) < share, REPEATS, values)


def rates(name: str, readings: list[Reading]) -> tuple[float, float]:
    """Return how often the threshold alone, and the rule, would warn."""
    signal = SIGNAL[name]
    past = np.mean([reading.value > signal.threshold for reading in readings])
    return float(past), float(np.mean([signal.triggers(reading) for reading in readings]))


def main() -> None:
    """Count warnings of unchanged and of changed answers."""
    kept = json.loads((HERE / "answers.json").read_text(encoding="utf-8"))
    tokens, repetition = np.array(kept["tokens"], dtype=float), np.array(kept["repetition"])
    rows = []
    for units in (8, 16, 32):
        for factor in (1.0, 1.5, 2.0, 3.0):
            generator = np.random.default_rng(0)
            drawn = [draw(tokens, units, generator) for _ in range(RESAMPLES)]
            readings = [length_reading(before, longer(after, factor)) for before, after in drawn]
            rows.append(("length_growth", f"answers x {factor:g}", units, *rates("length_growth", readings)))
        for share in (0.0, 0.25, 0.5, 1.0):
            generator = np.random.default_rng(0)
            drawn = [draw(repetition, units, generator) for _ in range(RESAMPLES)]
            readings = [repetition_reading(before, repeating(after, share, generator)) for before, after in drawn]
            rows.append(("repetition", f"{share:.0%} go in circles", units, *rates("repetition", readings)))
    table = Table("warning", "policy", "prompts", "threshold alone", "threshold and test", title=f"{RESAMPLES} draws")
    for name, policy, units, alone, rule in rows:
        table.add_row(name, policy, str(units), f"{alone:.4f}", f"{rule:.4f}")
    Console(width=120).print(table)
    names = ("warning", "policy", "prompts", "threshold_alone", "rule")
    written = [dict(zip(names, row, strict=True)) for row in rows]
    (HERE / "results.json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
