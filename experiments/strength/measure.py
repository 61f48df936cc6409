"""Is a longer run turned back better than a shorter run, at an equal gain?

From the checkpoints of one run: the last one is turned back to the strengths t < 1 at which its mean held-out margin
is that of each earlier checkpoint at strength 1, and then both are compared on the same pairs and windows of text: KL
from the base model (exact over the vocabulary, at the pairs' tokens), forgetting (rise of the text's loss), DPO loss
and the gains of chosen and rejected answers. A difference is last checkpoint minus earlier one, with a paired
bootstrap interval; where it is below 0 for KL and forgetting, turning back is the better of the two.

The margins are made equal on the pairs that KL and gains are measured on, which equalises and selects nothing. One run
and one seed say nothing of others: run it for each.

    python experiments/strength/measure.py RUN --data held_out.jsonl --text wikitext2.txt --output DIR

RUN is the folder of a `ropo train` that kept its checkpoints (--save_strategy steps --save_steps N), of any method that
has a strength. Writes DIR/results.json; what is computed is kept in DIR/cache, and a killed run goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import ropo  # noqa: F401  registers the adapter
from ropo.cli.quiet import quiet_libraries
from ropo.core.files import read_text, write_atomically
from ropo.core.intervals import Comparison, paired_difference
from ropo.core.record import device_name, git_commit, library_versions
from ropo.evaluation.contestants import Contestant
from ropo.evaluation.knowledge.text import cut_text
from ropo.evaluation.strength.scores import score_strengths
from ropo.evaluation.suites import Workplace
from ropo.lm.held_out import BETA, HeldOutPairs, read_held_out, trained_limits, trained_with
from ropo.lm.loading import load_tokenizer
from ropo.lm.tokens import TextWindow
from ropo.training.checkpoints.folder import checkpoints_of

CLOSE = 0.01  # of the margin that is looked for, relative: as near as the strengths are brought
ROUNDS = 5


def main() -> None:
    """Measure every checkpoint, match the last one to each, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run with its checkpoints")
    parser.add_argument("--data", required=True, help="held-out pairs")
    parser.add_argument("--text", type=Path, required=True, help="plain text")
    parser.add_argument("--output", type=Path, required=True, help="folder for results.json")
    parser.add_argument("--max_pairs", type=int, default=256)
    parser.add_argument("--window", type=int, default=256, help="tokens of text read together")
    parser.add_argument("--max_windows", type=int, default=64)
    parser.add_argument("--parts", type=int, default=8, help="parts from 0 to 1 whose ends are measured first")
    parser.add_argument("--steps", nargs="+", type=int, help="steps of the earlier checkpoints (all)")
    flags = parser.parse_args()
    quiet_libraries()

    run = str(flags.run)
    *earlier, last = sorted(checkpoints_of(flags.run), key=step_of)
    earlier = [each for each in earlier if not flags.steps or step_of(each) in flags.steps]
    if not earlier:
        sys.exit(f"{run}: needs at least two checkpoints; train with --save_strategy steps --save_steps N")
    pairs = read_held_out(flags.data, "test", load_tokenizer(str(last)), trained_limits(run), flags.max_pairs)
    text = read_text(flags.text, "text")
    windows = cut_text(Contestant("last", str(last)), text, flags.window, flags.max_windows)
    bench = Bench(pairs, windows, Workplace(flags.output / "cache"), trained_with(run, "beta", BETA))
    grid = tuple(number / flags.parts for number in range(flags.parts + 1))
    bench.measure(last, grid)
    rows = [compare(bench, each, last, grid) for each in earlier]
    content = {
        "run": flags.run.name,
        "last_step": step_of(last),
        "pairs": len(pairs.tokens),
        "windows": len(windows),
        "beta": bench.beta,
        "command": sys.argv[1:],
        "commit": git_commit(),
        "versions": library_versions(),
        "device": device_name(),
        "curve": [{"strength": t, **bench.means(last, t)} for t in grid],
        "checkpoints": rows,
    }
    flags.output.mkdir(parents=True, exist_ok=True)
    write_atomically(flags.output / "results.json", json.dumps(content, indent=2) + "\n")
    show(rows, step_of(last))


class Bench:
    """Measure checkpoints at strengths, each once.

    Args:
        pairs: Held-out pairs.
        windows: Windows of text.
        workplace: Where scores are kept.
        beta: Of the margin.
    """

    def __init__(self, pairs: HeldOutPairs, windows: list[TextWindow], workplace: Workplace, beta: float) -> None:
        self.pairs, self.windows, self.workplace, self.beta = pairs, windows, workplace, beta
        self._units: dict[tuple[Path, float], dict[str, np.ndarray]] = {}

    def measure(self, checkpoint: Path, strengths: Sequence[float]) -> None:
        """Run a checkpoint at strengths, and its base model once for all of them."""
        print(f"measuring {checkpoint.name} at {', '.join(f'{each:.4g}' for each in strengths)}", file=sys.stderr)
        contestant = Contestant(checkpoint.name, str(checkpoint))
        curve = score_strengths(contestant, strengths, self.pairs, self.windows, self.workplace, lambda rows: None)
        for number, strength in enumerate(strengths):
            gains = curve.log_probs[number] - curve.reference
            margin = self.beta * (gains[:, 0] - gains[:, 1])
            self._units[checkpoint, strength] = {
                "margin": margin,
                "loss": np.logaddexp(0.0, -margin),
                "chosen_gain": gains[:, 0],
                "rejected_gain": gains[:, 1],
                "kl": curve.kl[number] / curve.tokens,
                "forgetting": curve.losses[number] - curve.reference_losses,
            }

    def units(self, checkpoint: Path, strength: float) -> dict[str, np.ndarray]:
        """Return each measure's numbers, one per pair or window."""
        if (checkpoint, strength) not in self._units:
            self.measure(checkpoint, (strength,))
        return self._units[checkpoint, strength]

    def means(self, checkpoint: Path, strength: float) -> dict[str, float]:
        """Return the means over pairs or windows; `kl` is the mean over pairs of nats per token."""
        return {name: float(values.mean()) for name, values in self.units(checkpoint, strength).items()}


def compare(bench: Bench, earlier: Path, last: Path, grid: Sequence[float]) -> dict[str, Any]:
    """Compare an earlier checkpoint with the last one, turned back to an equal margin."""
    wanted = bench.means(earlier, 1.0)["margin"]
    row: dict[str, Any] = {"step": step_of(earlier), "at_1": bench.means(earlier, 1.0)}
    strength = match(lambda t: bench.means(last, t)["margin"], wanted, grid)
    if strength is None:
        return {**row, "strength": None}  # the last checkpoint gains less at every strength up to 1
    ours, theirs = bench.units(last, strength), bench.units(earlier, 1.0)
    changes: dict[str, Comparison] = {name: paired_difference(ours[name], theirs[name]) for name in ours}
    return {
        **row,
        "strength": strength,
        "turned_back": bench.means(last, strength),
        "difference": {name: asdict(change) for name, change in changes.items()},
    }


def match(margin_at: Callable[[float], float], wanted: float, grid: Sequence[float]) -> float | None:
    """Return the smallest strength of at most 1 with a margin: on the grid first, and then between by secants."""
    known = {t: margin_at(t) for t in grid}
    above = next((t for t in grid if known[t] >= wanted), None)
    if above is None:
        return None
    if above == grid[0]:
        return above
    low, high = grid[grid.index(above) - 1], above
    for _ in range(ROUNDS):
        if abs(known[high] - wanted) <= CLOSE * abs(wanted):
            break
        share = (wanted - known[low]) / (known[high] - known[low])
        between = low + (high - low) * min(max(share, 0.05), 0.95)
        known[between] = margin_at(between)
        low, high = (between, high) if known[between] < wanted else (low, between)
    return min((low, high), key=lambda t: abs(known[t] - wanted))


def show(rows: list[dict[str, Any]], last: int) -> None:
    """Print a row for each earlier checkpoint."""
    table = Table("step", "margin", "t", "its margin", "KL, difference", "forgetting, difference", "loss, difference")
    for row in rows:
        cells = [str(row["step"]), f"{row['at_1']['margin']:.4f}"]
        if row["strength"] is None:
            table.add_row(*cells, "none", "", "", "", "")
            continue
        cells += [f"{row['strength']:.3f}", f"{row['turned_back']['margin']:.4f}"]
        for name in ("kl", "forgetting", "loss"):
            found = row["difference"][name]
            span = "" if found["low"] is None else f" ({found['low']:+.5f} to {found['high']:+.5f})"
            cells.append(f"{found['value']:+.5f}{span}")
        table.add_row(*cells)
    print(f"step {last} turned back to t, minus each earlier step at 1; below 0 the turned one drifts or forgets less")
    Console(width=160).print(table)


def step_of(checkpoint: Path) -> int:
    """Return the step of `checkpoint-N`."""
    return int(checkpoint.name.rpartition("-")[2])


if __name__ == "__main__":
    main()
