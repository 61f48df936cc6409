"""`ropo train` in a process of its own, which can be killed; forked from a server that has imported everything."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["ropo.runs.train", "tests.cli.killing"])


def start(arguments, log: Path, die_in_write: int | None = None):
    """Start the command; with `die_in_write` it kills itself in the middle of that checkpoint's write."""
    process = CONTEXT.Process(target=_run, args=([str(argument) for argument in arguments], str(log), die_in_write))
    process.start()
    return process


def finish(arguments, log: Path, die_in_write: int | None = None, timeout: float = 600) -> int:
    """Run the command to its end and return its exit status: minus the signal's number where one killed it."""
    process = start(arguments, log, die_in_write)
    process.join(timeout)
    assert process.exitcode is not None, "still running"
    return process.exitcode


def _run(arguments: list[str], log: str, die_in_write: int | None) -> None:
    import torch

    from ropo.cli.main import main

    torch.set_num_threads(1)
    if die_in_write is not None:
        _die_in_write(die_in_write)
    with open(log, "a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        status = main(arguments)
        file.flush()
    os._exit(status)


def _die_in_write(number: int) -> None:
    from ropo.training.checkpoints import checkpointer, optimizer

    writes, save = [], checkpointer.save_state

    def half_a_state(state, stem):
        save(state, stem)
        writes.append(stem)
        if len(writes) == 3 * number - 1:  # optimizer, scheduler and random state make a checkpoint
            file = stem.with_suffix(".json")
            file.write_text(file.read_text()[:10])
            os.kill(os.getpid(), signal.SIGKILL)

    checkpointer.save_state = optimizer.save_state = half_a_state
