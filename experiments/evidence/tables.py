"""Print the tables of docs/single_points.md from the results of the comparisons.

python experiments/evidence/tables.py experiments/evidence/*.json.gz
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from ropo.comparison.recipe import REFERENCE
from ropo.comparison.results import ComparisonResult, RunResult
from ropo.evaluation.results import Change, Metric

# Suite: the metrics shown; a name that ends in / stands for all that begin with it.
SHOWN = {
    "instructions": ("passes", "tokens"),
    "preference": ("accuracy", "margin", "chosen_gain", "rejected_gain"),
    "diversity": ("distinct_2", "self_bleu", "embedding_distance", "repetition"),
    "knowledge": ("arc_easy/", "piqa/", "text/"),
}

# What is shown for every seed beside the others.
BY_SEED = {
    ("instructions", "passes"): "passes",
    ("instructions", "tokens"): "tokens",
    ("preference", "margin"): "margin",
    ("preference", "rejected_gain"): "rejected_gain",
    ("diversity", "distinct_2"): "distinct_2",
    ("knowledge", "text/loss"): "text/loss",
}


def main(paths: Iterable[str]) -> None:
    """Print every table of every result, and then what differs between seeds."""
    results = [ComparisonResult.model_validate_json(gzip.decompress(Path(path).read_bytes())) for path in paths]
    for result in results:
        print(f"\n# {result.title} (commit {result.git_commit})")
        for table in (*([sweep(result)] if result.selections else []), weights(result), *measures(result)):
            show(table)
    print("\n# Seed by seed")
    show(seeds(results))


def show(table: Iterable[list[str]]) -> None:
    """Print a table as Markdown."""
    print()
    print(*(f"| {' | '.join(row)} |" for row in table), sep="\n")


def sweep(result: ComparisonResult) -> Iterator[list[str]]:
    """Yield the rates that were tried, with the validation loss of each and the chosen one in bold."""
    yield from header("method", "validation loss by rate")
    for each in result.selections:
        tried = (f"{one.learning_rate:g}: {number(one.value)}" for one in each.candidates)
        chosen = f"{each.chosen:g}:"
        yield [each.method, ", ".join(f"**{text}**" if text.startswith(chosen) else text for text in tried)]


def weights(result: ComparisonResult) -> Iterator[list[str]]:
    """Yield what training did to the neurons."""
    yield from header("method", "rate", "trained", "energy", "largest change of a cosine", "training minutes")
    for run in trained(result):
        assert run.record is not None
        assert run.diagnosis is not None
        summary, metrics = run.diagnosis.summary, run.record.metrics
        share, seconds = float(metrics["trainable_share"]), float(metrics["train_runtime"])
        moved = [f"{summary.energy_change:+.1e}", f"{summary.largest_cosine_change:.1e}"]
        yield [label(run, result), f"{run.learning_rate:g}", f"{100 * share:.2f} %", *moved, f"{seconds / 60:.1f}"]


def measures(result: ComparisonResult) -> Iterator[Iterator[list[str]]]:
    """Yield a table for each suite: the reference's value, and every run's with its change."""
    for suite in result.suites:
        shown = SHOWN[suite.result.suite]
        models = {model.name: model for model in suite.result.models}
        every = dict.fromkeys(metric.name for model in models.values() for metric in model.metrics)
        names = [name for name in every if name in shown or name.partition("/")[0] + "/" in shown]
        rows = []
        for run in (run for run in result.runs if run.name in models):
            metrics = {each.name: each for each in models[run.name].metrics}
            changes = {each.name: each for each in models[run.name].changes}
            rows.append([label(run, result), *(cell(metrics.get(name), changes.get(name)) for name in names)])
        yield iter([*header(suite.result.suite, *names), *rows])


def seeds(results: Iterable[ComparisonResult]) -> Iterator[list[str]]:
    """Yield, for methods with several seeds on one data set, each measure's values in the order of the seeds."""
    found: dict[tuple[str, str], dict[tuple[str, str], dict[int, float]]] = {}
    for result in results:
        for run in result.runs:
            values = found.setdefault((run.data, run.method), {measure: {} for measure in BY_SEED})
            for suite in (suite.result for suite in result.suites if suite.data == run.data):
                for metric in (each for model in suite.models if model.name == run.name for each in model.metrics):
                    if (suite.suite, metric.name) in values:
                        values[suite.suite, metric.name][run.seed] = metric.value
    yield from header("data", "method", "seeds", *BY_SEED.values())
    for (data, method), values in found.items():
        numbers = sorted({seed for by_seed in values.values() for seed in by_seed})
        if len(numbers) > 1 or method == REFERENCE:
            shown = (", ".join(number(by_seed.get(seed)) for seed in numbers) for by_seed in values.values())
            yield [data, method, ", ".join(map(str, numbers)), *shown]


def cell(metric: Metric | None, change: Change | None) -> str:
    """Return a value, and the interval of its change from the reference or, where it has none, its own."""
    if metric is None:
        return ""
    if change is None:
        own = "" if metric.low is None else f" [{number(metric.low)}, {number(metric.high)}]"
        return number(metric.value) + own
    p_value = "" if change.p_value is None else f", p {change.p_value:.2g}"
    return f"{number(metric.value)} ({number(change.low, '+')} to {number(change.high, '+')}{p_value})"


def label(run: RunResult, result: ComparisonResult) -> str:
    """Return the method's name, with the seed where there are several."""
    several = len({each.seed for each in trained(result)}) > 1
    return f"{run.method}, seed {run.seed}" if several and run.method != REFERENCE else run.method


def trained(result: ComparisonResult) -> Iterator[RunResult]:
    """Yield the runs that finished."""
    return (run for run in result.runs if run.status == "finished" and run.learning_rate is not None)


def number(value: float | None, sign: str = "") -> str:
    """Return four significant digits."""
    return "none" if value is None else f"{value:{sign}.4g}"


def header(*titles: str) -> Iterator[list[str]]:
    """Yield a table's first two lines."""
    yield list(titles)
    yield ["---"] * len(titles)


if __name__ == "__main__":
    main(sys.argv[1:])
