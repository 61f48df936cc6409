"""Read each remedy's symptom off at the plain run's gain, and say how much of the symptom is left.

    python experiments/remedies/table.py                    the committed results
    python experiments/remedies/table.py --runs DIR --output results.json.gz    from runs, to be committed

The rule, fixed before any remedy was run. Of each seed, the wanted gain is the plain run's at its end. A remedy's
symptom is read off where its gain first reaches that, on straight lines between its measurements. What is left is the
mean over seeds of the remedy's symptom over the mean of the plain run's. The interval of 95 % is a bootstrap of 2,000
draws over seeds and, within them, over held-out pairs, prompts and pieces of text, which are the same in both runs; the
wanted gain is drawn anew with them. Seeds (and draws) in which the remedy never gets there are left out and counted.

The gain is the mean margin on held-out pairs (beta 0.1, whatever the loss), and where chosen answers are the longer
ones, its difference per token, as the sum takes length for gain.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
RESULTS = HERE / "results.json.gz"
DRAWS = 2000
Run = dict[str, Any]
Drawn = dict[str, np.ndarray]
Measured = Callable[[Run, dict[str, Any], Drawn], float]


def margin(run: Run, row: dict[str, Any], drawn: Drawn) -> float:
    """Return beta times the mean margin of the drawn pairs."""
    lengths = np.array(run["lengths"])[drawn["pairs"]]
    chosen, rejected = (np.array(row["units"][f"{name}_change_per_token"]) for name in ("chosen", "rejected"))
    sums = chosen[drawn["pairs"]] * lengths[:, 0] - rejected[drawn["pairs"]] * lengths[:, 1]
    return float(0.1 * sums.mean())


def margin_per_token(run: Run, row: dict[str, Any], drawn: Drawn) -> float:
    """Return by how many nats per token the chosen answers of the drawn pairs gained on the rejected ones."""
    chosen, rejected = (np.array(row["units"][f"{name}_change_per_token"]) for name in ("chosen", "rejected"))
    return float((chosen - rejected)[drawn["pairs"]].mean())


def displacement(run: Run, row: dict[str, Any], drawn: Drawn) -> float:
    """Return how many nats per token the chosen answers have lost."""
    return -float(np.array(row["units"]["chosen_change_per_token"])[drawn["pairs"]].mean())


def forgetting(run: Run, row: dict[str, Any], drawn: Drawn) -> float:
    """Return the rise of the loss on plain text."""
    return float(np.array(row["units"]["text_loss_rise"])[drawn["windows"]].mean())


def growth(run: Run, row: dict[str, Any], drawn: Drawn) -> float:
    """Return by what share answers have grown."""
    before = np.array(run["reference_tokens"])[drawn["prompts"]]
    return float(np.array(row["units"]["length_ratio"])[drawn["prompts"]].sum() / before.sum())


def repetition(run: Run, row: dict[str, Any], drawn: Drawn) -> float:
    """Return the rise of the share of repeated 4-grams."""
    return float(np.array(row["units"]["repetition_rise"])[drawn["prompts"]].mean())


# What each hack is judged by, and at equal what.
SYMPTOMS: dict[str, dict[str, Measured]] = {
    "near": {"displacement": displacement, "forgetting": forgetting},
    "length": {"growth": growth},
    "repetition": {"repetition": repetition},
}
GAINS: dict[str, Measured] = {"near": margin, "length": margin_per_token, "repetition": margin}


def path_of(run: Run, measured: Measured, drawn: Drawn) -> list[float]:
    """Return a number along a run, from the start, where it is 0."""
    return [0.0, *(measured(run, row, drawn) for row in run["path"])]


def read_off(gains: list[float], symptoms: list[float], wanted: float) -> float | None:
    """Return the symptom where the gain first reaches the wanted one, or None."""
    for at in range(1, len(gains)):
        if gains[at] >= wanted:
            low, high = gains[at - 1], gains[at]
            share = (wanted - low) / (high - low) if high > low else 1.0
            return symptoms[at - 1] + share * (symptoms[at] - symptoms[at - 1])
    return None


def both(plain: Run, other: Run, symptom: Measured, drawn: Drawn) -> tuple[float, float] | None:
    """Return the plain run's symptom at its end and the remedy's at an equal gain; None where it is not reached."""
    gain = GAINS[plain["hack"]]
    wanted = path_of(plain, gain, drawn)[-1]
    if wanted <= 0:
        return None
    found = read_off(path_of(other, gain, drawn), path_of(other, symptom, drawn), wanted)
    return None if found is None else (path_of(plain, symptom, drawn)[-1], found)


def left(plains: list[Run], others: list[Run], symptom: Measured) -> dict[str, Any]:
    """Return what is left of a symptom under a remedy, with its interval."""
    sizes = {
        "pairs": len(plains[0]["lengths"]),
        "prompts": len(plains[0]["reference_tokens"]),
        "windows": len(plains[0]["path"][0]["units"].get("text_loss_rise", [])),
    }
    whole = {name: np.arange(size) for name, size in sizes.items()}
    each = [both(plain, other, symptom, whole) for plain, other in zip(plains, others, strict=True)]
    reached = [found for found in each if found is not None]
    largest = [max(path_of(other, GAINS[other["hack"]], whole)) for other in others]
    summary = {"seeds": len(each), "reached": len(reached), "largest_gain": float(np.mean(largest))}
    if not reached:
        return summary
    generator = np.random.default_rng(0)
    ratios, missed = [], 0
    for _ in range(DRAWS):
        drawn = {name: generator.integers(size, size=size) if size else whole[name] for name, size in sizes.items()}
        seeds = generator.integers(len(plains), size=len(plains))
        found = [both(plains[seed], others[seed], symptom, drawn) for seed in seeds]
        kept = [pair for pair in found if pair is not None]
        missed += len(kept) < len(found)
        if kept and sum(plain for plain, _ in kept) > 0:
            ratios.append(sum(other for _, other in kept) / sum(plain for plain, _ in kept))
    low, high = np.quantile(ratios, [0.025, 0.975])
    plain, other = (float(np.mean(values)) for values in zip(*reached, strict=True))
    return {
        **summary,
        "plain": plain,
        "with_remedy": other,
        "left": other / plain,
        "low": float(low),
        "high": float(high),
        "each_seed": [None if found is None else found[1] / found[0] for found in each],
        "draws_missed": missed / DRAWS,
    }


def verdict(found: dict[str, Any]) -> str:
    """Say in a word what the interval allows to say."""
    if "left" not in found:
        return "gain not reached"
    if found["high"] <= 0.5:
        return "halves it"
    if found["high"] < 1:
        return "at least halves it, not sure" if found["left"] <= 0.5 else "helps, less than half"
    return "makes it worse" if found["low"] > 1 else "no help shown"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder of run.py; else the committed results are read")
    parser.add_argument("--output", type=Path, help="file for the runs together")
    flags = parser.parse_args()
    if flags.runs:
        runs = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(flags.runs.glob("*/*.json"))]
    else:
        runs = json.loads(gzip.decompress(RESULTS.read_bytes()))
    if flags.output:
        flags.output.write_bytes(gzip.compress((json.dumps(runs) + "\n").encode(), mtime=0))
    table = Table("hack", "symptom", "remedy", "seeds", "plain", "with remedy", "left (95 %)", "each seed", "verdict")
    for hack, symptoms in SYMPTOMS.items():
        by_remedy: dict[str, dict[int, Run]] = {}
        for run in runs:
            if run["hack"] == hack:
                by_remedy.setdefault(run["remedy"], {})[run["seed"]] = run
        plains = by_remedy.pop("none", {})
        for name, symptom in symptoms.items():
            for remedy, others in by_remedy.items():
                seeds = sorted(plains.keys() & others.keys())
                if seeds:
                    table.add_row(hack, name, remedy, *cells(plains, others, seeds, symptom))
    Console(width=170).print(table)


def cells(plains: dict[int, Run], others: dict[int, Run], seeds: list[int], symptom: Measured) -> list[str]:
    """Return the cells of a row from the number of seeds on."""
    found = left([plains[seed] for seed in seeds], [others[seed] for seed in seeds], symptom)
    count = f"{found['reached']} of {found['seeds']}"
    if "left" not in found:
        return [count, "", "", "", "", f"{verdict(found)} (largest {found['largest_gain']:.2f})"]
    each = ", ".join("-" if value is None else f"{value:.2f}" for value in found["each_seed"])
    span = f"{found['left']:.2f} ({found['low']:.2f}, {found['high']:.2f})"
    return [count, f"{found['plain']:+.3f}", f"{found['with_remedy']:+.3f}", span, each, verdict(found)]


if __name__ == "__main__":
    main()
