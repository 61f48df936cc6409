"""Print the tables of docs/frontiers.md from the results of `ropo compare` on the frontier's recipes.

python experiments/evidence/frontier.py experiments/evidence/frontier*.json.gz [--against OFT]
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ropo.comparison.frontier import quantities
from ropo.comparison.frontier.equal_gain import equal_gains
from ropo.comparison.results import Bounds, ComparisonResult, EqualGain, RunPath

SHOWN = {"pass": "+.2f", "loss": ".3f", "chosen": "+.1f", "kl": ".3f", "forgetting": "+.3f", "tokens": ".0f"}
COSTS = ("forgetting", "kl", "length")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what every run reached, and each method's costs at equal gains."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="RESULTS.json.gz")
    parser.add_argument("--against", metavar="METHOD", help="compare anew with this one (default: as it was compared)")
    options = parser.parse_args(arguments)
    for file in options.files:
        result = ComparisonResult.model_validate_json(gzip.decompress(file.read_bytes()))
        print(f"\n# {result.title}\n")
        show(["run", "step", *SHOWN], map(best_point, result.paths))
        gains = equal_gains(result.paths, options.against) if options.against else result.equal_gains
        for method in dict.fromkeys(each.method for each in gains):
            found = [each for each in gains if each.method == method]
            print(f"{method} - {found[0].against}\n")
            show(["gain", *COSTS], cost_rows(found))


def show(heads: list[str], rows: Iterable[list[str]]) -> None:
    """Print a table as Markdown."""
    print(*(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)), "", sep="\n")


def best_point(run: RunPath) -> list[str]:
    """Return what a run had reached where it gained most: changes from the reference, but for loss and tokens."""
    if run.path is None:
        return [f"{run.method} {run.learning_rate:g} seed {run.seed}", run.reason or run.status]
    step, found = quantities.best_point(run.path)
    found["loss"] = np.log(2) - found["loss"]
    cells = [f"{found[name]:{style}}" if name in found else "" for name, style in SHOWN.items()]  # nothing sampled
    return [f"{run.method} {run.learning_rate:g} seed {run.seed}", str(step), *cells]


def cost_rows(compared: list[EqualGain]) -> Iterator[list[str]]:
    """Yield for each level of gain the costs of both methods, and their difference with its interval."""
    levels = {(each.gain, each.share): each.level for each in compared}
    for (gain, share), level in levels.items():
        found = {each.cost: each for each in compared if (each.gain, each.share) == (gain, share)}
        cells = [cost_cell(found[cost]) if cost in found else "" for cost in COSTS]
        yield [f"{gain} {level:.3f}", *cells]


def cost_cell(each: EqualGain) -> str:
    """Write what both methods pay, and the difference."""
    return (
        f"{number(each.value)} - {number(each.other)}: {number(each.difference)} "
        f"({each.difference.low:.3f} to {each.difference.high:.3f})"
    )


def number(found: Bounds) -> str:
    """Write a value."""
    return "-" if found.value is None else f"{found.value:.3f}"


if __name__ == "__main__":
    main()
