"""A comparison put together from what single commands left: runs, and evaluations and diagnoses of them."""

from __future__ import annotations

__all__ = ["read_finished"]

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ropo.comparison.collect import METRICS, portable_record, read_curves, read_diagnosis, reference_run
from ropo.comparison.recipe import REFERENCE
from ropo.comparison.results import ComparisonResult, DataSuite, RunResult, read_comparison
from ropo.core.errors import UserError
from ropo.core.record import FILE_NAME as RECORD
from ropo.core.record import RunRecord, Source, read_record
from ropo.diagnostics.report import DiagnosticReport
from ropo.evaluation.results import FILE_NAME as RESULTS
from ropo.evaluation.results import ModelResult, SuiteResult, read_results
from ropo.evaluation.suites import STRENGTH
from ropo.lm.fingerprint import fingerprint_source

_TITLE = "Finished runs"
_PLACES = ("model", "data", "eval_data", "output", "overwrite", "resume", "trainer", "adapter")
_UNALIKE = ("seed", "output_dir", "logging_dir", "run_name", "data_seed")  # what runs of one method may differ in


@dataclass
class _Found:
    """Gather what the places hold, by its kind."""

    comparisons: list[Path] = field(default_factory=list)
    runs: list[Path] = field(default_factory=list)
    evaluations: list[SuiteResult] = field(default_factory=list)
    diagnoses: list[DiagnosticReport] = field(default_factory=list)


def read_finished(places: Sequence[Path], title: str | None = None) -> ComparisonResult:
    """Read a comparison from the folder of one, or put it together from finished runs; nothing is measured anew.

    An evaluation's models are matched to the runs, and its first model to their base model, by the content of their
    weights. A diagnosis is matched by the folder that it names. Runs of one base model on the same data are shown
    together, and those that differ in nothing but their seed are one method; a second one of one seed is left out.

    Args:
        places: The folder or `results.json` of one comparison; or folders of `ropo train`, with folders of
            `ropo evaluate` and files of `ropo diagnose` that measured them.
        title: What it is called; None for the comparison's own title, or a general one.

    Raises:
        UserError: If a place is none of these, a comparison is named beside others, or there is no run.
    """
    found = _sort_places(places)
    if found.comparisons:
        if len(places) > 1:
            raise UserError(f"{found.comparisons[0]}: is a whole comparison, which goes alone; name it or the others")
        result = read_comparison(found.comparisons[0])
        return result.model_copy(update={"title": title}) if title else result
    if not found.runs:
        raise UserError(f"{places[0]}: no finished run of `ropo train` was named; name at least one")
    return _put_together(found, title or _TITLE)


def _sort_places(places: Iterable[Path]) -> _Found:
    """Say of each place what it is, and read evaluations and diagnoses."""
    found = _Found()
    for place in places:
        folder = place.parent if place.name in (RESULTS, RECORD) else place
        if (folder / RECORD).is_file():
            if "train" not in read_record(folder).data:
                raise UserError(f"{folder}: is no run of `ropo train`, but of another command; name the run itself")
            found.runs.append(folder)
        elif (folder / RESULTS).is_file():
            if "suite" in _keys(folder / RESULTS):
                found.evaluations.append(read_results(folder))
            else:
                found.comparisons.append(folder)
        elif place.is_file() and "layers" in _keys(place):
            found.diagnoses.append(read_diagnosis(place))
        else:
            what = "a folder of `ropo train`, `ropo evaluate` or `ropo compare`, or a file of `ropo diagnose`"
            raise UserError(
                f"{place}: {'is not' if place.exists() else 'there is no such place, and it has to be'} {what}"
            )
    return found


def _put_together(found: _Found, title: str) -> ComparisonResult:
    """Put runs, evaluations and diagnoses together."""
    records = {folder: portable_record(folder) for folder in dict.fromkeys(found.runs)}
    twins = _twins(records)
    folders = [folder for folder in records if folder not in twins]
    records = {folder: records[folder] for folder in folders}
    data, methods = _names_of_data(records), _names_of_methods(records)
    names = {folder: f"{data[folder]}/{methods[folder]}/seed{records[folder].seed}" for folder in folders}
    prints = {fingerprint_source(str(folder)): folder for folder in folders} if found.evaluations else {}
    bases = {data[folder]: _base_of(records[folder]) for folder in folders}
    suites, notes = _match_suites(found.evaluations, prints, names, data, bases)
    notes += [f"{twin} has settings, data and seed of {first}, and is left out" for twin, first in twins.items()]
    measured = {suite.data for suite in suites if suite.result.models[0].name == f"{suite.data}/{REFERENCE}"}
    runs = []
    for name in dict.fromkeys(data.values()):
        if name in measured:
            runs.append(reference_run(name))
        for folder in (folder for folder in folders if data[folder] == name):
            diagnosis = next((each for each in found.diagnoses if Path(each.model).resolve() == folder.resolve()), None)
            runs.append(_run_of(folder, records[folder], names[folder], name, methods[folder], diagnosis))
    used = {run.diagnosis.model for run in runs if run.diagnosis}
    notes += [
        f"the diagnosis of {each.model} is of none of the runs" for each in found.diagnoses if each.model not in used
    ]
    return ComparisonResult(title=title, runs=runs, suites=suites, notes=notes)


def _names_of_data(records: Mapping[Path, RunRecord]) -> dict[Path, str]:
    """Name the training data of every run, with its base model where there are several.

    Equal names of different content get a part of their hash.
    """
    sources = {folder: record.data["train"] for folder, record in records.items()}
    data = _names(sources)
    models = {folder: record.model for folder, record in records.items() if record.model is not None}
    if len({model.sha256 for model in models.values()}) < 2:
        return data
    bases = _names(models)
    return {folder: f"{name} on {bases[folder]}" if folder in bases else name for folder, name in data.items()}


def _names(sources: Mapping[Path, Source]) -> dict[Path, str]:
    contents: dict[str, set[str]] = {}
    for source in sources.values():
        contents.setdefault(_stem(source.name), set()).add(source.sha256)
    return {
        folder: _stem(source.name)
        if len(contents[_stem(source.name)]) == 1
        else f"{_stem(source.name)}-{source.sha256[:8]}"
        for folder, source in sources.items()
    }


def _names_of_methods(records: Mapping[Path, RunRecord]) -> dict[Path, str]:
    """Name the method of every run: its name, with the first run's folder where several settings share it."""
    first: dict[str, Path] = {}
    for folder, record in records.items():
        first.setdefault(_settings_key(record), folder)
    methods = [records[folder].config["method"] for folder in first.values()]
    named = {}
    for folder, record in records.items():
        method = str(record.config["method"])
        several = methods.count(method) > 1
        named[folder] = f"{method} ({first[_settings_key(record)].name})" if several else method
    return named


def _settings_key(record: RunRecord) -> str:
    """Return all settings of a run but its seed and its places."""
    config = {name: value for name, value in record.config.items() if name not in _PLACES}
    trainer = {name: value for name, value in record.config["trainer"].items() if name not in _UNALIKE}
    adapter = {**(record.config.get("adapter") or {}), "base_model_name_or_path": None}
    return json.dumps([config, trainer, adapter], sort_keys=True, default=str)


def _base_of(record: RunRecord) -> str | None:
    """Return the fingerprint of the model that a run started from."""
    return record.model.sha256 if record.model else None


def _twins(records: Mapping[Path, RunRecord]) -> dict[Path, Path]:
    """Return the runs that have all of an earlier one, its seed too, with that one: they are no further seed."""
    first: dict[tuple[str | int | None, ...], Path] = {}
    twins = {}
    for folder, record in records.items():
        whole = _settings_key(record), _base_of(record), record.data["train"].sha256, record.seed
        if first.setdefault(whole, folder) != folder:
            twins[folder] = first[whole]
    return twins


def _match_suites(
    results: Sequence[SuiteResult],
    prints: Mapping[str, Path],
    names: Mapping[Path, str],
    data: Mapping[Path, str],
    bases: Mapping[str, str | None],
) -> tuple[list[DataSuite], list[str]]:
    """Split every evaluation by the data of its runs, and call its models what the runs are called.

    Its first model is the untrained one only where it is the base model of these runs; changes from another are shown
    as changes from that.
    """
    suites, notes = [], []
    for result in results:
        if result.suite == STRENGTH:
            notes.append(f"{STRENGTH}: its curves are in the strength.svg of its own folder, and it is left out here")
            continue
        known = {model.name: prints[print_] for model in result.models if (print_ := model.fingerprint or "") in prints}
        others = [model.name for model in result.models[1:] if model.name not in known]
        if others or not known:
            notes.append(f"{result.suite}: {', '.join(others) or 'no model'} is none of the runs, and is left out")
        for name in dict.fromkeys(data[folder] for folder in known.values()):
            mine = {model: names[folder] for model, folder in known.items() if data[folder] == name}
            first = result.models[0]
            if first.name not in known and first.fingerprint is not None and first.fingerprint == bases[name]:
                mine[first.name] = f"{name}/{REFERENCE}"
            elif first.name not in known:
                notes.append(f"{result.suite}: its first model, {first.name}, is not the base model of {name}'s runs")
            models = [_renamed(model, mine) for model in result.models if model.name in mine]
            suites.append(DataSuite(data=name, result=result.model_copy(update={"models": models})))
    return suites, notes


def _renamed(model: ModelResult, names: Mapping[str, str]) -> ModelResult:
    """Return a model's result under the names of the runs."""
    changes = [
        each.model_copy(update={"reference": names.get(each.reference, each.reference)}) for each in model.changes
    ]
    return model.model_copy(update={"name": names[model.name], "changes": changes})


def _run_of(
    folder: Path, record: RunRecord, name: str, data: str, method: str, diagnosis: DiagnosticReport | None
) -> RunResult:
    """Return a finished run."""
    rate = record.config["trainer"]["learning_rate"]
    return RunResult(
        name=name,
        data=data,
        method=method,
        seed=record.seed or 0,
        learning_rate=rate,
        status="finished" if record.status == "finished" else "unfinished",
        reason=None if record.status == "finished" else "it was stopped before its end",
        command=record.command,
        record=record,
        curves=read_curves(folder / METRICS),
        diagnosis=diagnosis,
    )


def _stem(name: str) -> str:
    return Path(name).stem or name


def _keys(file: Path) -> set[str]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError):
        return set()
    return set(content) if isinstance(content, dict) else set()
