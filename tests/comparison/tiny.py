"""A comparison of a tiny model that takes seconds, its cells run in this process."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import yaml

from ropo.cli.compare import prepare
from ropo.cli.main import main
from ropo.comparison.bench import SideBySide
from ropo.comparison.compare import compare_methods
from ropo.comparison.execution import EndedCommand
from ropo.comparison.reading import RecipeFile
from ropo.comparison.results import ComparisonResult
from tests.cli.conftest import PAIRS, write_pairs
from tests.tiny.sampled import write_prompts

MORE = [
    {"prompt": f"{one} {two}", "chosen": "yes .", "rejected": "no no"} for one in ("cat", "mat") for two in ("a", "on")
]


def write_recipe(folder: Path, model: str, **changes: Any) -> Path:
    """Write a recipe with its data beside it; `changes` replace its keys."""
    folder.mkdir(parents=True, exist_ok=True)
    write_pairs(folder / "train.jsonl", PAIRS + MORE)
    write_pairs(folder / "test.jsonl", PAIRS)
    told = [{"name": "at_most_words", "family": "length", "parameters": {"limit": 3}}]
    write_prompts(folder / "prompts.jsonl", ("the cat sat", "one two", "a dog"), instructions=told)
    recipe = {
        "title": "A tiny comparison",
        "model": model,
        "data": [
            {
                "name": "toy",
                "train": "train.jsonl",
                "validation_share": 0.25,
                "test": "test.jsonl",
                "prompts": "prompts.jsonl",
            }
        ],
        "seeds": [0, 1],
        "budget": {"pairs": 4, "batch_size": 2},
        "training": {"use_cpu": True, "monitor_steps": 0, "logging_steps": 1},
        "methods": [
            {"label": "RoPO", "method": "ropo", "learning_rates": [0.01, 0.05]},
            {"label": "full", "method": "full", "learning_rate": 0.001},
        ],
        "evaluations": [
            {"suite": "preference"},
            {"suite": "instructions", "samples": 2, "max_new_tokens": 5},
        ],
        "samples": 2,
        **changes,
    }
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return file


class InThisProcess:
    """Run commands in this process, noting them."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self._output_is_redirected = Lock()  # for the whole process

    def __call__(self, command: Sequence[str], log: Path) -> EndedCommand:
        with self._output_is_redirected:
            return self._run(command)

    def _run(self, command: Sequence[str]) -> EndedCommand:
        self.commands.append(list(command))
        output, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            status = main(command)
        lines = [*output.getvalue().splitlines(), *errors.getvalue().splitlines()]
        return EndedCommand(status, lines[-1] if lines else "")


def run_comparison(recipe: Path, output: Path, execute: Any = None, jobs: int = 1) -> ComparisonResult:
    """Compare as the command does, without a report."""
    file, side = RecipeFile(recipe), SideBySide(jobs)
    return compare_methods(
        file.recipe, prepare(file, output), output, execute or InThisProcess(), lambda line: None, side
    )


PLACES_AND_TIMES = {
    *("command", "commands", "diagnosis_command", "recipe", "notes"),
    *("created", "started", "ended", "seconds"),
}


def numbers(result: ComparisonResult) -> dict[str, Any]:
    """Return all of a result but times, places and what depends on them."""
    content = json.loads(result.model_dump_json())
    return _without(content, PLACES_AND_TIMES)


def _without(value: Any, names: set[str]) -> Any:
    if isinstance(value, dict):
        return {
            name: _without(each, names)
            for name, each in value.items()
            if name not in names and not _is_time_or_place(name)
        }
    return [_without(each, names) for each in value] if isinstance(value, list) else value


def _is_time_or_place(name: str) -> bool:
    return (
        "per_second" in name
        or "runtime" in name
        or name in {"output", "output_dir", "logging_dir", "data", "eval_data", "source", "model", "run_name"}
    )
