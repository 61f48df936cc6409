"""Run lm-eval on a model, keeping every answer on disk, and read its results as one number per question."""

from __future__ import annotations

__all__ = ()

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ropo.core.errors import UserError
from ropo.core.kept import kept_rows
from ropo.core.names import did_you_mean
from ropo.core.record import Measure
from ropo.evaluation.contestants import Contestant, loaded
from ropo.evaluation.knowledge import KnowledgeSettings
from ropo.evaluation.knowledge.local import PREFIX, LocalTask, read_task
from ropo.evaluation.suites import Workplace
from ropo.evaluation.unit_values import UnitValues, ratio_values
from ropo.lm.fingerprint import fingerprint_source

Task = str | LocalTask  # a name of lm-eval's, or a file that was read
_Kind = Literal["mean", "perplexity", "ratio", "alone"]


def find_tasks(names: Sequence[str]) -> list[Task]:
    """Read the local files, and check the other names against lm-eval's.

    Raises:
        UserError: If a file is malformed, or lm-eval has no task, group or tag of a name.
    """
    tasks: list[Task] = [read_task(Path(name)) if name.endswith(".jsonl") else name for name in names]
    labels = [task if isinstance(task, str) else task.name for task in tasks]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise UserError(f"tasks: two are called {twice[0]!r}; rename one of the files, or name it once")
    if any(isinstance(task, str) for task in tasks):
        known = _manager(tasks).task_index
        for task in tasks:
            if isinstance(task, str) and task not in known:
                hint = did_you_mean(task, known) or "; `lm-eval ls tasks` lists them, and a local file ends in .jsonl"
                raise UserError(f"tasks: lm-eval has no task {task!r}{hint}")
    return tasks


def check_data(tasks: Sequence[Task]) -> None:
    """Load the tasks' data once, before any model.

    Raises:
        UserError: If lm-eval cannot load the data of a task, as without network.
    """
    manager = _manager(tasks)
    for task in tasks:
        if isinstance(task, LocalTask):
            continue
        try:
            manager.load([task])
        except Exception as error:  # hub, dataset and task code raise whatever they like
            reason = str(error).strip().splitlines() or [""]
            raise UserError(
                f"task {task}: lm-eval cannot load it ({type(error).__name__}: {reason[0][:150]}); it needs the "
                "network and the libraries that it names; or give a local .jsonl file"
            ) from error


def run_tasks(
    contestant: Contestant, tasks: Sequence[Task], settings: KnowledgeSettings, workplace: Workplace
) -> dict[str, Outcome]:
    """Return lm-eval's results of all tasks for one model, computed now or kept from an earlier run.

    What is kept is both the outcome and, in lm-eval's own database, each answer, so that a killed run goes on.

    Cost: one forward pass a choice, or the generation of an answer; see lm-eval.
    """
    fingerprint = fingerprint_source(contestant.source)

    def compute(_: int) -> Iterator[list[Any]]:
        with quiet_harness(), loaded(contestant) as (model, tokenizer):
            found = _simple_evaluate(model, tokenizer, tasks, settings, workplace, fingerprint)
        yield [{name: outcome.model_dump() for name, outcome in outcomes_of(found).items()}]

    wanted = {
        "model": fingerprint,
        "tasks": [task if isinstance(task, str) else [task.name, task.sha256] for task in tasks],
        "limit": settings.limit,
        "num_fewshot": settings.num_fewshot,
        "chat_template": settings.chat_template,
        "seed": workplace.seed,
        "lm_eval": version("lm_eval"),
    }
    (row,) = kept_rows(workplace.cache / "knowledge", wanted, 1, compute)
    return {name.removeprefix(PREFIX): Outcome.model_validate(outcome) for name, outcome in row.items()}


def _simple_evaluate(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[Task],
    settings: KnowledgeSettings,
    workplace: Workplace,
    fingerprint: str,
) -> Any:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    answers = workplace.cache / "lm_eval" / fingerprint[:32]
    answers.parent.mkdir(parents=True, exist_ok=True)
    return simple_evaluate(
        HFLM(pretrained=model, tokenizer=tokenizer, batch_size=workplace.batch_size),
        tasks=[task if isinstance(task, str) else dict(task.config) for task in tasks],
        task_manager=_manager(tasks),
        num_fewshot=settings.num_fewshot,
        limit=settings.limit,
        apply_chat_template=settings.chat_template,
        use_cache=str(answers),
        bootstrap_iters=0,  # the intervals are our own
        random_seed=workplace.seed,
        numpy_random_seed=workplace.seed,
        torch_random_seed=workplace.seed,
        fewshot_random_seed=workplace.seed,
    )


def _manager(tasks: Sequence[Task]) -> Any:
    return _indexed(any(isinstance(task, str) for task in tasks))


@lru_cache(maxsize=2)
def _indexed(include_defaults: bool) -> Any:
    """Index lm-eval's own tasks only where one of them is asked for: reading all of them takes ten seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=include_defaults)


@contextmanager
def quiet_harness() -> Iterator[None]:
    """Keep lm-eval's notices out of the output, and git's where it runs outside a checkout; its progress bars stay."""
    from lm_eval import evaluator

    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    ask_git, evaluator.get_git_commit_hash = evaluator.get_git_commit_hash, lambda: None
    try:
        yield
    finally:
        logger.setLevel(level)
        evaluator.get_git_commit_hash = ask_git


class Outcome(Measure):
    """One metric of one task as lm-eval computed it, and the questions' part in it.

    Attributes:
        value: lm-eval's number.
        kind: How it follows from the questions: their mean, exp(-mean), the ratio of two sums, or unknown.
        units: One number per question; for a ratio its numerators.
        weights: The denominators of a ratio.
        count: Number of questions.
    """

    value: float
    kind: _Kind
    units: list[float]
    weights: list[float]
    count: int

    def unit_values(self, meaning: str) -> UnitValues | None:
        """Return the number of each question; None where the metric does not follow from them."""
        units = np.array(self.units)
        if self.kind == "mean":
            return UnitValues(units.astype(bool) if set(self.units) <= {0.0, 1.0} else units, meaning)
        if self.kind == "perplexity":
            return UnitValues(-units, meaning, exponential=True)
        if self.kind == "ratio":
            return ratio_values(units, np.array(self.weights), meaning)
        return None


def outcomes_of(results: Mapping[str, Any]) -> dict[str, Outcome]:
    """Return the outcomes of lm-eval's results by `task/metric`, or `task/metric/filter` for a filter with a name.

    A group (such as `mmlu`) is reported as a whole, its parts are not; its questions are those of its tasks.

    Returns:
        The outcomes of groups that are in no other group, and of tasks that are in none.
    """
    parts: Mapping[str, Sequence[str]] = results.get("group_subtasks", {})
    inside = {name for group, children in parts.items() for name in children if name != group}
    outcomes: dict[str, Outcome] = {}
    for name, numbers in results["results"].items():
        if name in inside:
            continue
        samples = [sample for task in _tasks(name, parts) for sample in results["samples"].get(task, [])]
        for key, value in numbers.items():
            metric, comma, kind = key.partition(",")
            if comma and not metric.endswith("_stderr") and isinstance(value, int | float) and math.isfinite(value):
                units = [sample[metric] for sample in samples if sample["filter"] == kind and metric in sample]
                label = f"{name}/{metric}" + ("" if kind == "none" else f"/{kind}")
                outcomes[label] = outcome_of(float(value), units)
    return outcomes


def outcome_of(value: float, units: Sequence[Any]) -> Outcome:
    """Find out how a metric follows from the questions, by trying; what is not found has no interval."""
    if units and all(isinstance(unit, int | float) for unit in units):
        numbers = [float(unit) for unit in units]
        mean = sum(numbers) / len(numbers)
        if math.isclose(mean, value, rel_tol=1e-6, abs_tol=1e-9):
            return Outcome(value=value, kind="mean", units=numbers, weights=[], count=len(numbers))
        if mean < 0 and math.isclose(math.exp(-mean), value, rel_tol=1e-6):
            return Outcome(value=value, kind="perplexity", units=numbers, weights=[], count=len(numbers))
    if units and all(isinstance(unit, list) for unit in units):  # several verdicts a question, as in IFEval
        sums, weights = [float(sum(unit)) for unit in units], [float(len(unit)) for unit in units]
        if sum(weights) and math.isclose(sum(sums) / sum(weights), value, rel_tol=1e-6, abs_tol=1e-9):
            return Outcome(value=value, kind="ratio", units=sums, weights=weights, count=len(sums))
    return Outcome(value=value, kind="alone", units=[], weights=[], count=len(units))


def _tasks(name: str, parts: Mapping[str, Sequence[str]]) -> list[str]:
    children = [child for child in parts.get(name, ()) if child != name]
    return [task for child in children for task in _tasks(child, parts)] if children else [name]
