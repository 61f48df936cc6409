"""The cells of a comparison: the commands that train, evaluate and diagnose, and the folders they leave finished."""

from __future__ import annotations

__all__ = ["as_flags", "settings_of"]

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropo.comparison.data import PreparedData
from ropo.comparison.frontier.options import Frontier
from ropo.comparison.places import typed
from ropo.comparison.recipe import REFERENCE, Evaluation, MethodRecipe, Recipe, slug
from ropo.core.kept import content_key
from ropo.lm.held_out import BETA

CACHE = "cache"


@dataclass(frozen=True)
class Cell:
    """One command to run.

    Attributes:
        kind: The command's name.
        name: What it works on, for a reader.
        command: Its arguments, without the program's name.
        output: What it leaves when it is finished: a folder, or a file.
    """

    kind: str
    name: str
    command: tuple[str, ...]
    output: Path


@dataclass(frozen=True)
class Training(Cell):
    """One training run to make."""

    data: str
    method: MethodRecipe
    seed: int
    learning_rate: float

    @property
    def run(self) -> str:
        """The run's name in the results."""
        return f"{self.data}/{slug(self.method.label)}/seed{self.seed}"


def training_cell(
    recipe: Recipe, model: str, data: PreparedData, method: MethodRecipe, rate: float, seed: int, output: Path
) -> Training:
    """Return the cell that trains a method.

    Its folder is named by everything that decides the run, so that a changed recipe finds what it still has in common.
    """
    options = {"method": method.method, "learning_rate": rate, "seed": seed, "max_steps": data.steps}
    saving = recipe.frontier.saving(data.steps) if recipe.frontier else {}
    options |= {"per_device_train_batch_size": recipe.budget.batch_size, **saving, **recipe.training, **method.options}
    key = short_key(model, data.content, options)
    folder = output / "runs" / data.name / f"{slug(method.label)}-seed{seed}-lr{rate:g}-{key}"
    held_out = ["--eval_data", data.validation] if data.validation else []
    command = ["train", "--model", recipe.model, "--data", data.train, *held_out, "--output", typed(folder)]
    command += as_flags(options)
    name = f"{data.name}/{slug(method.label)}/seed{seed} at {rate:g}"
    return Training("train", name, tuple(command), folder, data.name, method, seed, rate)


def path_cell(recipe: Recipe, frontier: Frontier, data: PreparedData, training: Training, output: Path) -> Cell:
    """Return the cell that measures a run along its way."""
    pairs = data.test if frontier.split == "test" else str(data.validation)
    settings: dict[str, Any] = {"pairs": pairs, "max_pairs": frontier.pairs, "text": frontier.text}
    settings |= {"window": frontier.window, "max_windows": frontier.windows, "checkpoints": frontier.checkpoints}
    if data.prompts:
        settings |= {"prompts": data.prompts, "max_prompts": frontier.prompts, "samples": frontier.samples}
        settings |= {"max_new_tokens": frontier.max_new_tokens, "sampled": frontier.sampled}
    if beta_of(recipe, training.method) != beta_of(recipe):
        settings |= {"beta": beta_of(recipe)}
    settings |= {"bf16": frontier.bf16, "plain_prompts": bool(recipe.training.get("plain_prompts"))}
    key = short_key("path" + training.output.name + recipe.model, data.held_out, settings)
    folder = output / "paths" / data.name / f"{training.output.name}-{key}"
    ends = ["--reference", recipe.model, "--output", typed(folder), "--cache", typed(output / CACHE)]
    command = ["path", typed(training.output), *as_flags(settings, switches=True), *ends]
    return Cell("path", training.name, tuple(command), folder)


def evaluation_cell(
    recipe: Recipe, data: PreparedData, evaluation: Evaluation, name: str, run: Path | None, mark: str, output: Path
) -> Cell:
    """Return the cell that evaluates one run against the reference, or the reference alone where `run` is None.

    One run a command: what a suite says of one must not depend on which others there are. `mark` names its content.
    """
    settings = settings_of(recipe, evaluation, data.test, data.prompts)
    models = [f"{data.name}/{REFERENCE}={recipe.model}"] + ([f"{name}={typed(run)}"] if run else [])
    key = short_key(evaluation.suite + mark + recipe.model, data.held_out, settings)
    folder = output / "evaluations" / data.name / f"{evaluation.suite}-{slug(name)}-{key}"
    ends = ["--output", typed(folder), "--cache", typed(output / CACHE)]
    command = ["evaluate", evaluation.suite, *models, *as_flags(settings, switches=True), *ends]
    return Cell("evaluate", f"{evaluation.suite} of {name}", tuple(command), folder)


def diagnosis_cell(recipe: Recipe, training: Training, output: Path) -> Cell:
    """Return the cell that diagnoses a run; an adapter knows its reference itself."""
    file = output / "diagnoses" / training.data / f"{training.output.name}.json"
    reference = ["--reference", recipe.model] if training.method.method == "full" else []
    command = ["diagnose", typed(training.output), *reference, "--output", typed(file)]
    return Cell("diagnose", training.run, tuple(command), file)


def beta_of(recipe: Recipe, method: MethodRecipe | None = None) -> float:
    """Return the beta that a method trains with; without a method that which the margins of all are measured with."""
    return float({"beta": BETA, **recipe.training, **(method.options if method else {})}["beta"])


def settings_of(recipe: Recipe, evaluation: Evaluation, test: str, prompts: str | None) -> dict[str, Any]:
    """Return a suite's settings with the data set's own pairs and prompts filled in, and one beta for all runs."""
    own: dict[str, Any] = {"data": test, "beta": beta_of(recipe)} if evaluation.suite == "preference" else {}
    if evaluation.suite in ("diversity", "instructions", "alpaca-eval") and prompts:
        own["prompts"] = prompts
    return {**own, **evaluation.options}


def short_key(what: str, data: str, options: Mapping[str, Any]) -> str:
    """Return a name made from what decides a cell's result.

    The order of the options does not count, and of a file that one names (a text, questions) only the content does.
    """
    decided = {name: _with_contents(value) for name, value in options.items()}
    return content_key([what, data, {name: as_flags({name: value}) for name, value in decided.items()}])[:8]


def _with_contents(value: Any) -> Any:
    """Return an option with the hash of its content in the place of every file."""
    if isinstance(value, list | tuple):
        return [_with_contents(each) for each in value]
    if not isinstance(value, str) or not Path(value).is_file():
        return value
    with Path(value).open("rb") as content:
        return f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"


def as_flags(options: Mapping[str, Any], switches: bool = False) -> list[str]:
    """Write options as flags of a command; `null` is left out.

    Args:
        options: The options by name.
        switches: Whether true is a bare flag and false none, as in `ropo evaluate`.
    """
    flags: list[str] = []
    for name, value in options.items():
        if isinstance(value, list | tuple):
            flags += [f"--{name}", *map(_as_text, value)]
        elif switches and isinstance(value, bool):
            flags += [f"--{name}"] if value else []
        elif value is not None:
            flags.append(f"--{name}={_as_text(value)}")
    return flags


def _as_text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict | bool) else str(value)
