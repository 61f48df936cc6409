"""Read each remedy's symptom off at the plain run's gain, and say how much of the symptom is left.

    python experiments/remedies/table.py                    the committed results, file by file
    python experiments/remedies/table.py --runs DIR --output results.json.gz    from runs, to be committed

The rule. Of each seed, the wanted gain is the plain run's at its end, or the largest that the remedy got to where that
is less (the column `gain`: the means of both). Both symptoms are read off where the gain first
reaches it, on straight lines between the measurements, which begin at 0. What is left is the mean over seeds of the
remedy's symptom over the mean of the plain run's. The interval of 95 % is a bootstrap of 2,000 draws over seeds and,
within them, over held-out pairs, prompts and pieces of text, which are the same in both runs; the wanted gain is drawn
anew with them. Fixed before any remedy was run, but for the clause on the largest gain: that was added when the first
two remedies of seed 0 had not reached the plain run's end. A run ended sooner (--stop_at_kl, --stop_on_warning) is a
part of the plain run, so that at an equal gain all of its symptom is left, by construction. Draws in which the plain
runs have no symptom have no ratio and are left out of its interval; `over half`, the symptom with the remedy less half
of the plain run's, has them too (added with the hack `hot`, whose plain run has no symptom with one of three seeds).

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

HERE = Path(__file__).parent
RESULTS = sorted(HERE.glob("results*.json.gz"))  # one for each machine: another rounds, and so samples, otherwise
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


def collapse(run: Run, row: dict[str, Any], drawn: Drawn) -> float:
    """Return how many nats per token the rejected answers have lost."""
    return -float(np.array(row["units"]["rejected_change_per_token"])[drawn["pairs"]].mean())


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
    "near": {"displacement": displacement, "collapse": collapse, "forgetting": forgetting},
    "length": {"growth": growth, "collapse": collapse},
    "longer": {"growth": growth},
    "hot": {"growth": growth, "displacement": displacement, "forgetting": forgetting},
    "long": {"growth": growth, "displacement": displacement, "forgetting": forgetting},
    "twice": {"repetition": repetition, "growth": growth},
    "repetition": {"repetition": repetition},
}
GAINS: dict[str, Measured] = {
    "near": margin,
    "length": margin_per_token,
    "longer": margin_per_token,
    "hot": margin,
    "long": margin,
    "twice": margin_per_token,
    "repetition": margin,
}


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
    """Return the plain run's symptom and the remedy's at an equal gain; None where one of them gained nothing."""
    gain = GAINS[plain["hack"]]
    gains = path_of(plain, gain, drawn), path_of(other, gain, drawn)
    wanted = min(gains[0][-1], max(gains[1]))
    if wanted <= 0:
        return None
    before = read_off(gains[0], path_of(plain, symptom, drawn), wanted)
    after = read_off(gains[1], path_of(other, symptom, drawn), wanted)
    return None if before is None or after is None else (before, after)


def left(plains: list[Run], others: list[Run], symptom: Measured) -> dict[str, Any]:
    """Return what is left of a symptom under a remedy, with its interval."""
    sizes = {
        "pairs": len(plains[0]["lengths"]),
        "prompts": len(plains[0]["reference_tokens"]),
        "windows": len(plains[0]["path"][0]["units"].get("text_loss_rise", [])),
    }
    whole = {name: np.arange(size) for name, size in sizes.items()}
    gain = GAINS[plains[0]["hack"]]
    runs = list(zip(plains, others, strict=True))
    each = [pair for plain, other in runs if (pair := both(plain, other, symptom, whole)) is not None]
    ends = [(path_of(plain, gain, whole)[-1], max(path_of(other, gain, whole))) for plain, other in runs]
    summary = {
        "seeds": len(runs),
        "gain_wanted": float(np.mean([wanted for wanted, _ in ends])),
        "gain_reached": float(np.mean([largest for _, largest in ends])),
    }
    if len(each) < len(runs):
        return summary
    generator = np.random.default_rng(0)
    ratios: list[float] = []
    over_half: list[float] = []
    for _ in range(DRAWS):
        drawn = {name: generator.integers(size, size=size) if size else whole[name] for name, size in sizes.items()}
        chosen = [runs[seed] for seed in generator.integers(len(runs), size=len(runs))]
        found = [pair for plain, other in chosen if (pair := both(plain, other, symptom, drawn)) is not None]
        if found:
            before, after = np.mean(found, axis=0)
            over_half.append(after - before / 2)
            ratios += [after / before] if before > 0 else []
    low, high = np.quantile(ratios, [0.025, 0.975])
    without, with_it = (float(value) for value in np.mean(each, axis=0))
    return {
        **summary,
        "plain": without,
        "with_remedy": with_it,
        "left": with_it / without,
        "low": float(low),
        "high": float(high),
        "each_seed": [after / before for before, after in each],
        "draws_left_out": 1 - len(ratios) / DRAWS,
        "over_half": [with_it - without / 2, *map(float, np.quantile(over_half, [0.025, 0.975]))],
    }


def verdict(found: dict[str, Any]) -> str:
    """Say in a few words what the interval allows to say."""
    if "left" not in found:
        return "gained nothing"
    if found["high"] <= 0.5:
        return "halves it"
    if found["high"] < 1:
        return "helps" + (", may halve it" if found["left"] <= 0.5 else ", does not halve it")
    return "makes it worse" if found["low"] > 1 else "not sure to help"


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder of run.py; else the committed results are read")
    parser.add_argument("--output", type=Path, help="file for the runs together")
    flags = parser.parse_args()
    if flags.runs:
        files = [[json.loads(file.read_text(encoding="utf-8")) for file in sorted(flags.runs.glob("*/*.json"))]]
    else:
        files = [json.loads(gzip.decompress(file.read_bytes())) for file in RESULTS]
    if flags.output:
        flags.output.write_bytes(gzip.compress((json.dumps(files[0]) + "\n").encode(), mtime=0))
    for runs in files:
        show(runs)


def show(runs: list[Run]) -> None:
    """Print what is left of each symptom under each remedy, of runs of one machine."""
    print("| hack | symptom | remedy | gain | plain | with it | left | over half | each seed | so it |")
    print("|---|---|---|---|---|---|---|---|---|---|")
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
                    row = [hack, name, remedy, *cells(plains, others, seeds, symptom)]
                    print("| " + " | ".join(row) + " |")


def cells(plains: dict[int, Run], others: dict[int, Run], seeds: list[int], symptom: Measured) -> list[str]:
    """Return the cells of a row from the number of seeds on."""
    found = left([plains[seed] for seed in seeds], [others[seed] for seed in seeds], symptom)
    gain = f"{found['gain_reached']:.2f} of {found['gain_wanted']:.2f}"
    if "left" not in found:
        return [gain, "", "", "", "", "", verdict(found)]
    each = ", ".join(f"{value:.2f}" for value in found["each_seed"])
    span = f"{found['left']:.2f} ({found['low']:.2f}, {found['high']:.2f})"
    value, least, most = found["over_half"]
    over_half = f"{value:+.3f} ({least:+.3f}, {most:+.3f})"
    return [gain, f"{found['plain']:+.3f}", f"{found['with_remedy']:+.3f}", span, over_half, each, verdict(found)]


if __name__ == "__main__":
    main()
