"""Train, choose, evaluate, diagnose: the whole comparison, cell by cell."""

from __future__ import annotations

__all__ = ["compare_methods"]

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ropo.comparison.bench import Bench, End, SideBySide
from ropo.comparison.cells import (
    Training,
    beta_of,
    diagnosis_cell,
    evaluation_cell,
    path_cell,
    settings_of,
    training_cell,
)
from ropo.comparison.collect import SAMPLED, merge_suite, read_diagnosis, reference_run, run_result, samples_of
from ropo.comparison.data import PreparedData
from ropo.comparison.execution import Execute
from ropo.comparison.frontier.equal_gain import equal_gains
from ropo.comparison.frontier.options import Frontier
from ropo.comparison.pictures import pictures_of
from ropo.comparison.recipe import REFERENCE, Evaluation, MethodRecipe, Recipe
from ropo.comparison.results import (
    ChosenRate,
    ComparisonResult,
    DataSuite,
    RunPath,
    RunResult,
    SideBySideAnswers,
    TriedRate,
)
from ropo.comparison.selection import choose_rate, tried_rate
from ropo.core.record import read_record
from ropo.evaluation.path.results import read_path
from ropo.evaluation.results import SuiteResult, read_results
from ropo.lm.fingerprint import fingerprint_source

_Trained = tuple[Training, End]


@dataclass
class _Findings:
    """Gather the parts of the result, under their names there, as they come."""

    runs: list[RunResult] = field(default_factory=list)
    selections: list[ChosenRate] = field(default_factory=list)
    suites: list[DataSuite] = field(default_factory=list)
    samples: list[SideBySideAnswers] = field(default_factory=list)
    paths: list[RunPath] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def compare_methods(
    recipe: Recipe,
    data: Sequence[PreparedData],
    output: Path,
    execute: Execute,
    say: Callable[[str], None],
    side: SideBySide | None = None,
) -> ComparisonResult:
    """Do every cell that is not finished yet, and put everything together.

    Returns:
        The result; a run that diverged or failed is in it with its reason, and the others go on.

    Raises:
        UserError: If the model cannot be found.

    Cost: rates + seeds - 1 training runs per method and data set, with a frontier rates * seeds; evaluations of seeds.
    """
    bench = Bench(output, execute, _count_cells(recipe), say, side or SideBySide())
    model = fingerprint_source(recipe.model)
    found = _Findings(notes=_notes_on_beta(recipe))
    for each in data:
        trained = _train_all(recipe, model, each, bench, found)
        found.notes += each.notes
        measured = [training for training, end in trained if end.status == "finished"]
        for evaluation in _evaluations_of(recipe, each.name):
            evaluate(recipe, model, each, evaluation, measured, bench, found)
        bench.leave_out("evaluate", (len(trained) - len(measured)) * len(_evaluations_of(recipe, each.name)))
        bench.leave_out("diagnose", (len(trained) - len(measured)) * recipe.diagnose)
        found.runs.append(reference_run(each.name))
        found.runs += _look_at_all(recipe, trained, bench, found)
    return ComparisonResult(
        title=recipe.title,
        recipe=recipe.model_dump(mode="json"),
        equal_gains=equal_gains(found.paths, recipe.frontier.against if recipe.frontier else None),
        **vars(found),
    )


def _notes_on_beta(recipe: Recipe) -> list[str]:
    """Say which methods train with another beta than their margins are measured with."""
    common = beta_of(recipe)
    others = {each.label: own for each in recipe.methods if (own := beta_of(recipe, each)) != common}
    told = ", ".join(f"{label} with {beta:g}" for label, beta in others.items())
    return [f"margins and DPO losses are measured with beta {common:g}; trained otherwise: {told}"] if told else []


def _count_cells(recipe: Recipe) -> Counter[str]:
    """Count the cells of each kind, as if every run finished."""
    runs = len(recipe.methods) * len(recipe.seeds)
    counts: Counter[str] = Counter()
    for data in recipe.data:
        rates, seeds = sum(len(each.rates) for each in recipe.methods), len(recipe.seeds)
        counts["train"] += rates * seeds if recipe.frontier else rates + (seeds - 1) * len(recipe.methods)
        counts["path"] += rates * seeds if recipe.frontier else 0
        counts["evaluate"] += len(_evaluations_of(recipe, data.name)) * (1 + runs)
        counts["diagnose"] += runs * recipe.diagnose
    return counts


def _evaluations_of(recipe: Recipe, data: str) -> list[Evaluation]:
    """Return the evaluations that are for a data set."""
    return [each for each in recipe.evaluations if not each.only or data in each.only]


def _train_all(recipe: Recipe, model: str, data: PreparedData, bench: Bench, found: _Findings) -> list[_Trained]:
    """Train every method with every seed at the rate that is best on the validation pairs; a frontier at every rate."""
    done: dict[tuple[str, float, int], _Trained] = {}

    def train(wanted: Iterable[tuple[MethodRecipe, float, int]]) -> None:
        runs = [each for each in wanted if (each[0].label, *each[1:]) not in done]
        ends = bench.side.map(lambda each: _train(recipe, model, data, *each, bench), runs)
        for (method, rate, seed), (trained, path) in zip(runs, ends, strict=True):
            done[method.label, rate, seed] = trained
            found.paths += [] if path is None else [path]

    tried = {
        each.label: recipe.seeds if recipe.frontier or len(each.rates) == 1 else recipe.seeds[:1]
        for each in recipe.methods
    }
    train((each, rate, seed) for each in recipe.methods for seed in tried[each.label] for rate in each.rates)
    chosen = {}
    for each in recipe.methods:
        chosen[each.label] = each.rates[0]
        if len(each.rates) > 1:
            reached = {rate: [done[each.label, rate, seed] for seed in tried[each.label]] for rate in each.rates}
            candidates = [_tried_rate(recipe, rate, trained) for rate, trained in reached.items()]
            found.selections.append(choose_rate(data.name, each.label, candidates, recipe.selection))
            chosen[each.label] = found.selections[-1].chosen
    kept = [(each, chosen[each.label], seed) for each in recipe.methods for seed in recipe.seeds]
    train(kept)
    return [done[method.label, rate, seed] for method, rate, seed in kept]


def _train(
    recipe: Recipe, model: str, data: PreparedData, method: MethodRecipe, rate: float, seed: int, bench: Bench
) -> tuple[_Trained, RunPath | None]:
    """Train one run and, for a frontier, measure it along its way."""
    cell = training_cell(recipe, model, data, method, rate, seed, bench.output)
    end = bench.do(cell)
    if recipe.frontier is None:
        return (cell, end), None
    return (cell, end), _path_of(recipe, recipe.frontier, data, cell, end, bench)


def _path_of(
    recipe: Recipe, frontier: Frontier, data: PreparedData, training: Training, end: End, bench: Bench
) -> RunPath:
    """Measure a finished run along its way; what did not finish is there with its reason."""
    run = RunPath(
        data=data.name,
        method=training.method.label,
        seed=training.seed,
        learning_rate=training.learning_rate,
        status=end.status,
        reason=end.reason,
    )
    if end.status != "finished":
        bench.leave_out("path", 1)
        return run
    cell = path_cell(recipe, frontier, data, training, bench.output)
    measured = bench.do(cell)
    if measured.status != "finished":
        reason = f"it could not be measured along its way: {measured.reason}"
        return run.model_copy(update={"reason": reason, "command": list(cell.command)})
    if not frontier.keep_checkpoints:
        for folder in training.output.glob("checkpoint-*"):
            shutil.rmtree(folder)
    return run.model_copy(update={"command": list(cell.command), "path": read_path(cell.output)})


def _tried_rate(recipe: Recipe, rate: float, trained: Sequence[_Trained]) -> TriedRate:
    """Return what a rate reached with the seeds that it was tried with."""
    lost = [end.status for _, end in trained if end.status != "finished"]
    metrics = [] if lost else [read_record(cell.output).metrics for cell, _ in trained]
    return tried_rate(rate, lost[0] if lost else "finished", metrics, recipe.selection)


def evaluate(
    recipe: Recipe,
    model: str,
    data: PreparedData,
    evaluation: Evaluation,
    measured: Sequence[Training],
    bench: Bench,
    found: _Findings,
) -> None:
    """Evaluate the reference and every finished run, and keep a few answers side by side.

    On pairs the reference is measured beside each run, cut as in its training, and needs no cell of its own.
    """
    reference = f"{data.name}/{REFERENCE}"
    sources: dict[str, tuple[Path | None, str]] = {each.run: (each.output, each.output.name) for each in measured}
    if evaluation.suite == "preference" and measured:
        bench.leave_out("evaluate", 1)
    else:
        sources = {reference: (None, model), **sources}
    results: dict[str, SuiteResult] = {}
    cells = [
        evaluation_cell(recipe, data, evaluation, name, folder, mark, bench.output)
        for name, (folder, mark) in sources.items()
    ]
    for name, cell, end in zip(sources, cells, bench.do_all(cells), strict=True):
        if end.status == "finished":
            results[name] = read_results(cell.output).model_copy(update={"command": list(cell.command)})
        else:
            found.notes.append(f"{evaluation.suite} of {name} failed: {end.reason}")
    alone = results.pop(reference, None)
    merged = merge_suite(data.name, alone, results)
    if merged is None:
        return
    found.suites.append(merged)
    prompts = settings_of(recipe, evaluation, data.test, data.prompts).get("prompts")
    if evaluation.suite in SAMPLED and prompts and all(each.data != data.name for each in found.samples):
        answered = [reference] * (alone is not None) + list(results)
        models = {name: recipe.model if (folder := sources[name][0]) is None else str(folder) for name in answered}
        found.samples += samples_of(data.name, merged.result, Path(prompts), models, recipe.samples, bench.output)


def _look_at_all(recipe: Recipe, trained: Sequence[_Trained], bench: Bench, found: _Findings) -> list[RunResult]:
    """Diagnose the finished runs and draw their neurons; return all runs with what was found."""
    cells = {
        training.output: diagnosis_cell(recipe, training, bench.output)
        for training, end in trained
        if recipe.diagnose and end.status == "finished"
    }
    ends = dict(zip(cells, bench.do_all(cells.values()), strict=True))
    runs = []
    for training, end in trained:
        looked = ends.get(training.output)
        if looked is None or looked.status != "finished":
            found.notes += [] if looked is None else [f"diagnosis of {training.run} failed: {looked.reason}"]
            runs.append(run_result(training, end))
            continue
        cell = cells[training.output]
        file = bench.output / "pictures" / training.data / cell.output.name
        pictures = pictures_of(training.output, recipe.model, file)
        runs.append(run_result(training, end, read_diagnosis(cell.output), cell.command, pictures))
    return runs
