"""Train, choose, evaluate, diagnose: the whole comparison, cell by cell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ropo.comparison.bench import Bench, End
from ropo.comparison.cells import Training, diagnosis_cell, evaluation_cell, settings_of, training_cell
from ropo.comparison.collect import merge_suite, read_diagnosis, reference_run, run_result
from ropo.comparison.data import PreparedData
from ropo.comparison.execution import Execute
from ropo.comparison.pictures import Pictures, pictures_of
from ropo.comparison.recipe import REFERENCE, Evaluation, MethodRecipe, Recipe
from ropo.comparison.results import ComparisonResult, DataSuite, RunResult, Sample, Selection
from ropo.comparison.samples import SAMPLED, samples_of
from ropo.comparison.selection import candidate, select
from ropo.core.record import read_record
from ropo.diagnostics.report import DiagnosticReport
from ropo.evaluation.results import SuiteResult, read_results
from ropo.lm.fingerprint import fingerprint_source

Trained = tuple[Training, End]


@dataclass
class _Findings:
    """Gather the parts of the result as they come."""

    runs: list[RunResult] = field(default_factory=list)
    selections: list[Selection] = field(default_factory=list)
    suites: list[DataSuite] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def compare(
    recipe: Recipe, data: Sequence[PreparedData], output: Path, execute: Execute, say: Callable[[str], None]
) -> ComparisonResult:
    """Do every cell that is not finished yet, and put everything together.

    Args:
        recipe: What to compare, with the names of files resolved.
        data: Its data sets as they were written.
        output: The comparison's folder.
        execute: What runs a ropo command.
        say: What prints a line.

    Returns:
        The result; a run that diverged or failed is in it with its reason, and the others go on.

    Raises:
        UserError: If the model cannot be found.

    Cost: rates + seeds - 1 training runs a method and data set, each with its evaluations.
    """
    bench = Bench(output, execute, _count_cells(recipe), say)
    model = fingerprint_source(recipe.model)
    found = _Findings()
    for each in data:
        trained = _train_all(recipe, model, each, bench, found)
        found.notes += each.notes
        measured = [training for training, end in trained if end.status == "finished"]
        for evaluation in _evaluations_of(recipe, each.name):
            evaluate(recipe, model, each, evaluation, measured, bench, found)
        bench.leave_out("evaluate", (len(trained) - len(measured)) * len(_evaluations_of(recipe, each.name)))
        bench.leave_out("diagnose", (len(trained) - len(measured)) * recipe.diagnose)
        found.runs.append(reference_run(each.name))
        for training, end in trained:
            found.runs.append(run_result(training, end, *_look_at(recipe, training, end, bench, found)))
    return ComparisonResult(
        title=recipe.title,
        recipe=recipe.model_dump(mode="json"),
        runs=found.runs,
        selections=found.selections,
        suites=found.suites,
        samples=found.samples,
        notes=found.notes,
    )


def _count_cells(recipe: Recipe) -> Counter[str]:
    """Count the cells of each kind, as if every run finished."""
    runs = len(recipe.methods) * len(recipe.seeds)
    counts: Counter[str] = Counter()
    for data in recipe.data:
        counts["train"] += sum(len(each.rates) + len(recipe.seeds) - 1 for each in recipe.methods)
        counts["evaluate"] += len(_evaluations_of(recipe, data.name)) * (1 + runs)
        counts["diagnose"] += runs * recipe.diagnose
    return counts


def _evaluations_of(recipe: Recipe, data: str) -> list[Evaluation]:
    """Return the evaluations that are for a data set."""
    return [each for each in recipe.evaluations if not each.only or data in each.only]


def _train_all(recipe: Recipe, model: str, data: PreparedData, bench: Bench, found: _Findings) -> list[Trained]:
    """Train every method with every seed, at the rate that is best on the validation pairs."""
    trained: list[Trained] = []
    for method in recipe.methods:
        rate = method.rates[0]
        if len(method.rates) > 1:
            selection = sweep(recipe, model, data, method, bench)
            found.selections.append(selection)
            rate = selection.chosen
        for number, seed in enumerate(recipe.seeds):
            cell = training_cell(recipe, model, data, method, rate, seed, bench.output)
            if number == 0 and len(method.rates) > 1:
                bench.ahead["train"] += 1  # the sweep has trained it: looked up, not counted again
            trained.append((cell, bench.do(cell)))
    return trained


def sweep(recipe: Recipe, model: str, data: PreparedData, method: MethodRecipe, bench: Bench) -> Selection:
    """Try every learning rate of a method with the first seed."""
    candidates = []
    for rate in method.rates:
        cell = training_cell(recipe, model, data, method, rate, recipe.seeds[0], bench.output)
        end = bench.do(cell)
        metrics = read_record(cell.output).metrics if end.status == "finished" else {}
        candidates.append(candidate(rate, end.status, metrics, recipe.selection))
    return select(data.name, method.label, candidates, recipe.selection)


def evaluate(
    recipe: Recipe,
    model: str,
    data: PreparedData,
    evaluation: Evaluation,
    measured: Sequence[Training],
    bench: Bench,
    found: _Findings,
) -> None:
    """Evaluate the reference and every finished run, and keep a few answers side by side."""
    reference = f"{data.name}/{REFERENCE}"
    sources: dict[str, tuple[Path | None, str]] = {reference: (None, model)}
    sources |= {each.run: (each.output, each.output.name) for each in measured}
    results: dict[str, SuiteResult] = {}
    for name, (folder, mark) in sources.items():
        cell = evaluation_cell(recipe, data, evaluation, name, folder, mark, bench.output)
        end = bench.do(cell)
        if end.status == "finished":
            results[name] = read_results(cell.output).model_copy(update={"command": list(cell.command)})
        else:
            found.notes.append(f"{evaluation.suite} of {name} failed: {end.reason}")
    alone = results.pop(reference, None)
    merged = merge_suite(data.name, alone, results)
    if merged is None:
        return
    found.suites.append(merged)
    prompts = settings_of(evaluation, data).get("prompts")
    if evaluation.suite in SAMPLED and prompts and all(each.data != data.name for each in found.samples):
        answered = [reference] * (alone is not None) + list(results)
        models = {name: recipe.model if (folder := sources[name][0]) is None else str(folder) for name in answered}
        found.samples += samples_of(data.name, merged.result, Path(prompts), models, recipe.samples, bench.output)


def _look_at(
    recipe: Recipe, training: Training, end: End, bench: Bench, found: _Findings
) -> tuple[DiagnosticReport | None, Sequence[str], Pictures | None]:
    """Diagnose a finished run and draw its neurons; return the diagnosis, its command, and the pictures."""
    if not recipe.diagnose or end.status != "finished":
        return None, (), None
    cell = diagnosis_cell(recipe, training, bench.output)
    diagnosed = bench.do(cell)
    if diagnosed.status != "finished":
        found.notes.append(f"diagnosis of {training.run} failed: {diagnosed.reason}")
        return None, (), None
    file = bench.output / "pictures" / training.data / cell.output.name
    return read_diagnosis(cell.output), cell.command, pictures_of(training.output, recipe.model, file)
