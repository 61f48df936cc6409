"""Read what the cells left, and put it together: runs, results of suites, and a few answers side by side."""

from __future__ import annotations

__all__ = ()

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ropo.comparison.bench import End
from ropo.comparison.cells import CACHE, Training
from ropo.comparison.pictures import Pictures
from ropo.comparison.places import without_folders
from ropo.comparison.recipe import REFERENCE
from ropo.comparison.results import DataSuite, RunResult, SideBySideAnswers
from ropo.core.errors import UserError
from ropo.core.record import RunRecord, read_record, read_typed
from ropo.diagnostics.report import DiagnosticReport
from ropo.evaluation.contestants import Contestant, answer_prompts
from ropo.evaluation.results import SuiteResult
from ropo.instructions import satisfied
from ropo.lm.sampling import SamplingSettings, read_prompts

METRICS = "metrics.jsonl"
SAMPLED = ("instructions", "diversity")  # suites whose result says how they sampled


def run_result(
    training: Training,
    end: End,
    diagnosis: DiagnosticReport | None = None,
    diagnosis_command: Sequence[str] = (),
    pictures: Pictures | None = None,
) -> RunResult:
    """Return what is known of one run."""
    finished = end.status == "finished"
    return RunResult(
        name=training.run,
        data=training.data,
        method=training.method.label,
        seed=training.seed,
        learning_rate=training.learning_rate,
        status=end.status,
        reason=end.reason,
        command=list(training.command),
        record=portable_record(training.output) if finished else None,
        curves=read_curves(training.output / METRICS) if finished else [],
        diagnosis=diagnosis,
        diagnosis_command=list(diagnosis_command),
        cosines=pictures.cosines if pictures else [],
        neurons=pictures.neurons if pictures else None,
    )


def reference_run(data: str) -> RunResult:
    """Return the untrained model as a run of a data set."""
    return RunResult(
        name=f"{data}/{REFERENCE}", data=data, method=REFERENCE, seed=0, learning_rate=None, status="finished"
    )


def portable_record(folder: Path) -> RunRecord:
    """Return a run's record without absolute paths of this machine, and without NaN."""
    values = read_record(folder).model_dump(mode="json")
    return RunRecord.model_validate(without_folders(values))


def read_curves(file: Path) -> list[dict[str, float | None]]:
    """Read what a trainer logged, one mapping a line; what is not finite is None.

    Of a run that was carried on from a checkpoint, the steps that were done twice count once, the later ones. A last
    line that a kill cut off is left out; without a file nothing was logged.

    Raises:
        UserError: If another line is no JSON.
    """
    lines = _json_lines(file) if file.is_file() else []
    kept: dict[Any, dict[str, Any]] = {}
    for line in lines:
        kept[(line.get("step"), frozenset(line))] = line
    return [
        {
            name: value if math.isfinite(value) else None
            for name, value in line.items()
            if isinstance(value, int | float)
        }
        for line in sorted(kept.values(), key=lambda line: line.get("step", 0))
    ]


def _json_lines(file: Path) -> list[dict[str, Any]]:
    texts = [text for text in file.read_text(encoding="utf-8").splitlines() if text.strip()]
    found = []
    for number, text in enumerate(texts, 1):
        try:
            found.append(json.loads(text))
        except json.JSONDecodeError as error:
            if number < len(texts):
                raise UserError(f"{file}:{number}: is no JSON ({error.msg}); remove the line") from error
    return found


def read_diagnosis(file: Path) -> DiagnosticReport:
    """Read what `ropo diagnose` wrote."""
    return read_typed(DiagnosticReport, file, "a diagnosis of schema 1", "compare again", "delete it and compare again")


def merge_suite(data: str, alone: SuiteResult | None, runs: Mapping[str, SuiteResult]) -> DataSuite | None:
    """Put the results of one suite together: the reference first, then every run with its change from it.

    Args:
        data: Name of the data set.
        alone: The result of the reference alone; None where the suite measures it beside each run only, and it then
            stands as it was measured beside the first.
        runs: The result of each run beside the reference, by the run's name.

    Returns:
        The whole, with each run's command; None where nothing was measured.
    """
    everything = [*([alone] if alone else []), *runs.values()]
    if not everything:
        return None
    first = everything[0]
    models = [first.models[0], *(each.models[1] for each in runs.values())]
    commands = {first.models[0].name: first.command}
    commands |= {result.models[-1].name: result.command for result in everything}
    merged = first.model_copy(update={"models": models, "notes": _notes(everything)})
    return DataSuite(data=data, result=merged, commands=commands)


def _notes(results: Sequence[SuiteResult]) -> list[str]:
    """Return the notes of all results, those of some only with the model that they are on."""
    notes: dict[str, list[str]] = {}
    for result in results:
        for note in result.notes:
            notes.setdefault(note, []).append(result.models[-1].name)
    return [note if len(names) == len(results) else f"{', '.join(names)}: {note}" for note, names in notes.items()]


def samples_of(
    data: str, result: SuiteResult, prompts: Path, models: Mapping[str, str], count: int, output: Path
) -> list[SideBySideAnswers]:
    """Return the first answers to a few prompts of a suite in `SAMPLED`, spread over the file, not chosen by success.

    `models` is the source of each run's model by the run's name.
    """
    settings = result.settings
    asked = read_prompts(prompts)[: settings["max_prompts"]]
    names = ("samples", "temperature", "top_p", "max_new_tokens")
    sampling = SamplingSettings(**{name: settings[name] for name in names}, seed=result.seed)
    answers = {
        name: answer_prompts(Contestant(name, source), asked, sampling, settings["batch_size"], output / CACHE)
        for name, source in models.items()
    }
    shown = sorted({number * len(asked) // count for number in range(count)}) if count else []
    samples = []
    for number in shown:
        texts = {name: given[number][0].text for name, given in answers.items()}
        told = asked[number].fields.get("instructions") if result.suite == "instructions" else None
        passed = {name: bool(all(satisfied(told, text))) for name, text in texts.items()} if told else {}
        samples.append(
            SideBySideAnswers(data=data, prompt=asked[number].turns[-1]["content"], answers=texts, passed=passed)
        )
    return samples
