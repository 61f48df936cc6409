"""Several processes of one command: the first one owns the output folder and speaks, and all agree on what it found."""

from __future__ import annotations

__all__ = ["by_the_first", "let_the_first_speak", "meet", "rank", "take_leave", "telling_of_lost_processes"]

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

from ropo.core.errors import ProcessLostError, UserError

_Result = TypeVar("_Result")

SILENCE = 5.0  # seconds in which a launcher ends the other processes of a run whose first one has failed
_LOST = ("connection closed by peer", "connection reset by peer", "broken pipe", "timed out", "socket closed")


def rank() -> int:
    """Return the number of this process among those of the command, 0 for the first and for one alone."""
    return int(os.environ.get("RANK", "0"))


def alone() -> bool:
    """Tell whether there is no other process."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1


def let_the_first_speak() -> None:
    """Wait, in a process that is not the first: where all fail alike, the user reads one line, not one of each."""
    if rank():
        time.sleep(SILENCE)


def by_the_first(action: Callable[[], _Result]) -> _Result:
    """Let the first process do something with files, and give its result, or its error, to all.

    Raises:
        UserError: If the action raised it.
    """
    if alone():
        return action()
    from accelerate.utils import broadcast_object_list

    outcome: list = [None, None]
    if rank() == 0:
        try:
            outcome[0] = action()
        except UserError as error:
            outcome[1] = str(error)
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise UserError(outcome[1])
    return outcome[0]


def largest_of_all(value: int, args: Any) -> int:
    """Return the largest of what the processes of a trainer's arguments give; all call it."""
    if args.world_size == 1:
        return value
    import torch

    agreed = torch.tensor(value, device=args.device)
    torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MAX)
    return int(agreed.item())


@dataclass(frozen=True)
class _Peer:
    """Say where a process of the run is, so that the others can look at it."""

    host: str
    pid: int
    began: float

    def state(self) -> str | None:
        """Say what is wrong with a process on this machine; None where nothing is, or nobody here can tell."""
        if self.host != socket.gethostname():
            return None
        try:
            process = psutil.Process(self.pid)
            if process.create_time() != self.began:  # another has its number by now
                return "has ended"
            status = process.status()
        except psutil.NoSuchProcess:
            return "has ended"
        if status in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return "has ended"
        return "is stopped" if status == psutil.STATUS_STOPPED else None


_peers: list[_Peer] = []


def meet() -> None:
    """Let every process know where the others are; all call it once."""
    if alone():
        return
    from accelerate.utils import gather_object

    own = _Peer(socket.gethostname(), os.getpid(), psutil.Process().create_time())
    _peers[:] = gather_object([own])


def _who_is_lost() -> str:
    """Name the processes that have ended or are stopped, as the subject of a sentence and what it says.

    A connection breaks a moment before the process that held it has ended, so it is looked for during one second.
    """
    deadline = time.monotonic() + 1.0
    while _peers and time.monotonic() < deadline:
        found = [(number, peer.pid, peer.state()) for number, peer in enumerate(_peers) if number != rank()]
        if lost := [f"process {number} (pid {pid}) {state}" for number, pid, state in found if state]:
            return " and ".join(lost)
        time.sleep(0.01)
    return "another process of this run has ended or hangs"


def take_leave() -> None:
    """Close the connections to the other processes, together with them.

    Left to the interpreter's end, their threads may abort a process whose work is done and saved.
    """
    if not alone():
        from accelerate import PartialState

        PartialState().wait_for_everyone()
        PartialState().destroy_process_group()


@contextmanager
def telling_of_lost_processes(folder: Path) -> Iterator[None]:
    """Turn the error of a process that has lost another into a line that says so and how to go on.

    Raises:
        ProcessLostError: Where a connection to another process broke, or waiting for it took too long.
    """
    try:
        yield
    except RuntimeError as error:
        if alone() or not _is_loss(error):
            raise
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher is about to end this process: not before it spoke
        who = _who_is_lost()
        from ropo.training.checkpoints.folder import newest_whole

        checkpoint, _ = newest_whole(folder)
        kept = f"{checkpoint} is whole: give the same command with --resume" if checkpoint else "no checkpoint is whole"
        raise ProcessLostError(f"{who}, so process {rank()} stops; {kept}") from error


def _is_loss(error: RuntimeError) -> bool:
    """Tell whether an error means that another process could not be reached."""
    import torch

    said = str(error).lower()
    return isinstance(error, torch.distributed.DistError) or any(words in said for words in _LOST)
