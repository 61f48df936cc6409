"""Do cells, several at a time: what is finished is kept, what fails is recorded and stops nothing."""

from __future__ import annotations

__all__ = ["SideBySide"]

import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Event, Lock
from typing import TypeVar

from ropo.comparison.cells import Cell
from ropo.comparison.execution import Execute
from ropo.comparison.places import typed
from ropo.comparison.results import Status
from ropo.core.errors import UserError
from ropo.core.record import FILE_NAME as RECORD
from ropo.evaluation.results import FILE_NAME as RESULTS

Item = TypeVar("Item")
Result = TypeVar("Result")
_DIVERGED = "training diverged"  # what `ropo train` says then
_MARKERS = {"train": RECORD, "evaluate": RESULTS, "diagnose": "", "path": RESULTS}


class SideBySide:
    """Do at most so many things at a time.

    Args:
        jobs: How many; with 1 all is done in the thread of the caller, one after the other.

    Attributes:
        ended: Set when one of them raised or the user interrupted; what runs then has to end.

    Raises:
        UserError: If it is none.
    """

    def __init__(self, jobs: int = 1) -> None:
        if jobs < 1:
            raise UserError(f"jobs: must be at least 1, got {jobs}; give 1 for one command after the other")
        self.jobs, self.ended = jobs, Event()

    def map(self, do: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Return what `do` returns for each item, in their order.

        Raises:
            BaseException: The first that a call raised, or the user's interrupt; nothing further is begun then.
        """
        if self.jobs == 1:
            return [do(each) for each in items]
        causes: list[BaseException] = []

        def attempt(each: Item) -> Result:
            if self.ended.is_set():
                raise CancelledError
            try:
                return do(each)
            except BaseException as error:
                causes.append(error)
                self.ended.set()  # here, before this thread takes the next one
                raise

        with ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(attempt, each) for each in items]
            try:
                return [each.result() for each in futures]
            except BaseException as error:
                self.ended.set()
                raise (causes or [error])[0] from None


@dataclass(frozen=True)
class End:
    """Say how a cell ended, and why if not well."""

    status: Status
    reason: str | None = None


class Bench:
    """Run the cells of one comparison and tell how far it is.

    Args:
        output: The comparison's folder.
        execute: What runs a command.
        ahead: How many cells of each kind there are.
        say: What prints a line.
        side: How many cells are done at a time.
    """

    def __init__(
        self, output: Path, execute: Execute, ahead: Counter[str], say: Callable[[str], None], side: SideBySide
    ) -> None:
        self.output, self.execute, self.ahead, self.say, self.side = output, execute, Counter(ahead), say, side
        self.total, self.begun = sum(ahead.values()), 0
        self.seconds: dict[str, list[float]] = {}
        self._counting = Lock()

    def do(self, cell: Cell) -> End:
        """Run a cell unless it is finished or known to diverge; a failed one is tried again by the next call."""
        marker, diverged = cell.output / _MARKERS[cell.kind], cell.output.with_name(cell.output.name + ".diverged")
        with self._counting:
            self.begun += 1
            where = f"[{self.begun}/{self.total}] {cell.kind} {cell.name}"
        if marker.is_file():
            self._count(cell.kind)
            self.say(f"{where}: is there already")
            return End("finished")
        if diverged.is_file():
            self._count(cell.kind)
            self.say(f"{where}: diverged before")
            return End("diverged", diverged.read_text(encoding="utf-8"))
        log = self.output / "logs" / cell.kind / f"{cell.output.name}.log"
        self.say(f"{where} ...")
        started = time.monotonic()
        outcome = self.execute([*cell.command, *_carry_on(cell)], log)
        seconds = time.monotonic() - started
        if not outcome.status and marker.is_file():
            self._count(cell.kind, seconds)
            self.say(f"{where}: done in {timedelta(seconds=round(seconds))}; {self.rest()}")
            return End("finished")
        self._count(cell.kind)
        reason = outcome.last_line.removeprefix(f"ropo {cell.kind}: error: ")
        status: Status = "diverged" if cell.kind == "train" and _DIVERGED in reason else "failed"
        if status == "diverged":
            diverged.parent.mkdir(parents=True, exist_ok=True)
            diverged.write_text(reason, encoding="utf-8")
        self.say(f"{where}: {status}, {reason} ({typed(log)})")
        return End(status, reason)

    def do_all(self, cells: Iterable[Cell]) -> list[End]:
        """Run cells that do not need each other, as many at a time as the comparison may."""
        return self.side.map(self.do, cells)

    def leave_out(self, kind: str, count: int) -> None:
        """Say that cells of a kind will not come."""
        with self._counting:
            self.ahead[kind] -= count
            self.total -= count

    def _count(self, kind: str, seconds: float | None = None) -> None:
        with self._counting:
            self.ahead[kind] -= 1
            if seconds is not None:
                self.seconds.setdefault(kind, []).append(seconds)

    def rest(self) -> str:
        """Estimate the time for the cells that are left, each kind by the mean of those done so far."""
        left = {kind: count for kind, count in self.ahead.items() if count > 0}
        known = {kind: sum(self.seconds[kind]) / len(self.seconds[kind]) for kind in left if kind in self.seconds}
        if left and not known:
            return f"{', '.join(left)} still to come, for how long is not known yet"
        seconds = sum(left[kind] * mean for kind, mean in known.items()) / self.side.jobs
        return f"{'about' if len(known) == len(left) else 'more than'} {timedelta(seconds=round(seconds))} left"


def _carry_on(cell: Cell) -> list[str]:
    """Return the flag that carries on a killed training run."""
    unfinished = cell.output.with_name(cell.output.name + ".incomplete")
    return ["--resume"] if cell.kind == "train" and unfinished.exists() else []
