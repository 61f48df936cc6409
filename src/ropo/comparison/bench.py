"""Do cells: what is finished is kept, what fails is recorded and stops nothing."""

from __future__ import annotations

__all__ = ()

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Lock

from ropo.comparison.cells import Cell
from ropo.comparison.execution import Execute
from ropo.comparison.places import typed
from ropo.comparison.results import Status
from ropo.comparison.side_by_side import SideBySide
from ropo.core.record import FILE_NAME as RECORD
from ropo.evaluation.results import FILE_NAME as RESULTS

_DIVERGED = "training diverged"  # what `ropo train` says then
_MARKERS = {"train": RECORD, "evaluate": RESULTS, "diagnose": "", "path": RESULTS}


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
