"""The registry of suites, and what a suite is."""

from __future__ import annotations

__all__ = ["STRENGTH", "SUITES", "Suite", "Workplace", "load_suite", "run_suite"]

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

if TYPE_CHECKING:
    from ropo.evaluation.contestants import Contestant
    from ropo.evaluation.results import SuiteResult

STRENGTH = "strength"  # of adapters one by one: no comparison of models, none of which is the others' reference

# name on the command line: module, which imports nothing heavy at its top
SUITES = {
    "preference": "ropo.evaluation.preference",
    "knowledge": "ropo.evaluation.knowledge",
    "diversity": "ropo.evaluation.diversity",
    "instructions": "ropo.evaluation.instructions",
    STRENGTH: "ropo.evaluation.strength",
    "alpaca-eval": "ropo.evaluation.alpaca_eval",
    "mt-bench": "ropo.evaluation.mt_bench",
}

# Called with what is being done and the number of steps; yields what is called with the number of steps just done.
_ProgressBar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@contextmanager
def _no_progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show nothing."""
    yield lambda steps: None


@dataclass(frozen=True)
class Workplace:
    """What every suite gets beside its settings.

    Attributes:
        cache: Folder for whatever is costly and kept by content: answers, verdicts, scores.
        seed: Seed of every random draw, intervals included.
        batch_size: Answers or texts that go through a model at once.
        progress: Opens a progress bar.
        output: Folder for whatever a suite writes beside its result, such as answers in a format of others.
    """

    cache: Path
    seed: int = 0
    batch_size: int = 32
    progress: _ProgressBar = _no_progress
    output: Path = Path()


@runtime_checkable
class Suite(Protocol):
    """What the package of a suite has: a line of help, flags, and settings that are checked before any work."""

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the suite's own flags."""

    def read_settings(self, arguments: argparse.Namespace) -> Any:
        """Return the suite's settings (a frozen pydantic model); `UserError` for flags or files that break a rule."""


def load_suite(name: str) -> Suite:
    """Return the suite of a name in `SUITES`."""
    return cast(Suite, import_module(SUITES[name]))


def run_suite(name: str, contestants: Sequence[Contestant], settings: Any, workplace: Workplace) -> SuiteResult:
    """Measure models by the suite of a name: the function `measure` of its file `measure.py`.

    Args:
        name: One of `SUITES`.
        contestants: The models, the first of which is the reference.
        settings: What the suite's `read_settings` returned.
        workplace: Where to work.
    """
    measured: SuiteResult = import_module(f"{SUITES[name]}.measure").measure(contestants, settings, workplace)
    return measured
