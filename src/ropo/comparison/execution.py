"""Run a ropo command in a process of its own, one comparison a folder."""

from __future__ import annotations

__all__ = ["locked", "run_in_process_of_its_own"]

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Event

from ropo.core.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: nothing then keeps a second comparison out of the folder
    fcntl = None  # type: ignore[assignment]

_LOCK = ".lock"
_PATIENCE = 120  # seconds that an interrupted command has to save what it has
_FIRST, _LONGEST = 30.0, 300.0  # seconds until a running command is told of first, and between two lines at most
_LOOKS = 1.0  # seconds between two looks at whether it has to end


@dataclass(frozen=True)
class EndedCommand:
    """The exit status of a command and the last line that it wrote."""

    status: int
    last_line: str


# Takes the command without the program's name, and the file of its output.
Execute = Callable[[Sequence[str], Path], EndedCommand]


def run_in_process_of_its_own(
    command: Sequence[str],
    log: Path,
    kept_open: Sequence[int] = (),
    tell: Callable[[Path, str], None] = lambda log, line: None,
    ended: Event | None = None,
) -> EndedCommand:
    """Run a ropo command, so that neither a crash nor its memory reaches the others.

    Args:
        command: Its arguments, without the program's name.
        log: Where its output goes.
        kept_open: File descriptors that it inherits, such as the lock's.
        tell: What prints a line; it gets the log and its latest line now and then, with the time that it has taken.
        ended: Set by another thread to interrupt the command.

    Raises:
        KeyboardInterrupt: If `ended` was set; the command has ended then.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ropo", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=() if os.name == "nt" else tuple(kept_open),  # there without a lock, and refused
        )
        try:
            status = _wait(process, log, tell, ended or Event())
        except BaseException:
            stop(process)
            raise
    return EndedCommand(status, last_line(log) or f"it wrote nothing and ended with status {status}")


def _wait(process: subprocess.Popen, log: Path, tell: Callable[[Path, str], None], ended: Event) -> int:
    """Wait for a process, and say what it last wrote after half a minute and then less and less often."""
    started = told = time.monotonic()
    pause = _FIRST
    while not ended.is_set():
        try:
            return process.wait(min(_LOOKS, pause))
        except subprocess.TimeoutExpired:
            now = time.monotonic()
            if now - told >= pause:
                tell(
                    log, f"{timedelta(seconds=round(now - started))} so far: {last_line(log) or 'nothing written yet'}"
                )
                told, pause = now, min(2 * pause, _LONGEST)
    raise KeyboardInterrupt


def stop(process: subprocess.Popen) -> None:
    """Interrupt a process, and end it where that does not help."""
    process.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGINT)  # Windows sends no other
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def last_line(log: Path) -> str:
    """Return the last line of a file that is not empty, or nothing where there is none."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Keep every other comparison out of a folder, also while a command of a killed one still runs.

    Yields:
        The file descriptor of the lock, for the commands to inherit.

    Raises:
        UserError: If another one is there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"output {folder}: another comparison, or a command of a killed one, still writes there; "
                "wait for it or end it"
            ) from error
        yield file.fileno()
