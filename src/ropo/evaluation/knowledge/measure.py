"""Ask every model the same questions, and report what changed."""

from __future__ import annotations

__all__ = ()

from collections.abc import Mapping, Sequence

from ropo.core.files import read_text
from ropo.core.record import LIBRARIES, Source, library_versions
from ropo.evaluation.contestants import Contestant, model_results
from ropo.evaluation.knowledge import KnowledgeSettings
from ropo.evaluation.knowledge.harness import Outcome, Task, check_data, find_tasks, quiet_harness, run_tasks
from ropo.evaluation.knowledge.local import LocalTask
from ropo.evaluation.knowledge.text import TextScores, cut_text, score_windows
from ropo.evaluation.results import Metric, SuiteResult
from ropo.evaluation.suites import Workplace
from ropo.evaluation.unit_values import UnitValues
from ropo.lm.fingerprint import fingerprint_source
from ropo.lm.tokens import TextWindow


def measure(contestants: Sequence[Contestant], settings: KnowledgeSettings, workplace: Workplace) -> SuiteResult:
    """Run the tasks and the text on every model and compare them question by question.

    Returns:
        The result; the values are lm-eval's own, the intervals and tests ours.

    Raises:
        UserError: If a task, a local file or a model is at fault.

    Cost: see lm-eval; nothing for what is kept.
    """
    fingerprints = [fingerprint_source(each.source) for each in contestants]
    with quiet_harness():
        tasks = find_tasks(settings.tasks)
        check_data(tasks)
    text = read_text(settings.text, "text") if settings.text else None
    cuts = [] if text is None else [cut_text(each, text, settings.window, settings.max_windows) for each in contestants]
    outcomes = [run_tasks(each, tasks, settings, workplace) if tasks else {} for each in contestants]
    texts = [_score(each, windows, workplace) for each, windows in zip(contestants, cuts, strict=False)]
    of_models = [_values_of(found) for found in outcomes]
    asked = model_results(contestants, fingerprints, of_models, "questions", workplace.seed)
    of_models = [found.by_metric for found in texts] or [{}] * len(contestants)
    read = model_results(contestants, fingerprints, of_models, "windows", workplace.seed)
    models = []
    for number, (result, other) in enumerate(zip(asked, read, strict=True)):
        comparable = not texts or texts[number].tokens == texts[0].tokens
        metrics = _in_order(outcomes[number], result.metrics) + other.metrics
        changes = result.changes + (other.changes if comparable else [])
        models.append(result.model_copy(update={"metrics": metrics, "changes": changes}))
    notes = []
    if len({found.tokens for found in texts}) > 1:
        notes.append("the models' tokenizers differ, so that their text losses per token cannot be compared")
    return SuiteResult(
        suite="knowledge",
        settings=_shown_settings(settings),
        data=_sources_of(tasks, settings, text),
        models=models,
        notes=notes,
        seed=workplace.seed,
        versions=library_versions((*LIBRARIES, "lm_eval")),
    )


def _values_of(outcomes: Mapping[str, Outcome]) -> dict[str, UnitValues]:
    """Return the values of all outcomes that follow from their questions."""
    by_metric = {
        name: outcome.unit_values(f"lm-eval's {name} over {outcome.count} questions")
        for name, outcome in outcomes.items()
    }
    return {name: values for name, values in by_metric.items() if values is not None}


def _in_order(outcomes: Mapping[str, Outcome], metrics: Sequence[Metric]) -> list[Metric]:
    """Return the metrics in the order of the tasks; what does not follow from its questions is lm-eval's number."""
    known = {metric.name: metric for metric in metrics}
    bare = {
        name: Metric(
            name=name,
            value=outcome.value,
            count=outcome.count,
            meaning=f"lm-eval's {name}; no interval, as it is no mean of its questions",
        )
        for name, outcome in outcomes.items()
    }
    return list((bare | known).values())


def _shown_settings(settings: KnowledgeSettings) -> dict[str, object]:
    """Return the settings without the folders of this machine."""
    tasks = [name.rsplit("/", 1)[-1] if name.endswith(".jsonl") else name for name in settings.tasks]
    return {**settings.shown(), "tasks": tasks}


def _sources_of(tasks: Sequence[Task], settings: KnowledgeSettings, text: str | None) -> dict[str, Source]:
    """Return what was read from this machine; the hub's data have the versions of their tasks."""
    sources = {
        task.name: Source(name=f"{task.name}.jsonl", sha256=task.sha256, counts={"records": len(task.records)})
        for task in tasks
        if isinstance(task, LocalTask)
    }
    if text is not None and settings.text is not None:
        sources["text"] = Source.of(settings.text.name, text, characters=len(text))
    return sources


def _score(contestant: Contestant, windows: list[TextWindow], workplace: Workplace) -> TextScores:
    with workplace.progress(f"reading text with {contestant.name}", len(windows)) as advance:
        return score_windows(contestant, windows, workplace, advance)
