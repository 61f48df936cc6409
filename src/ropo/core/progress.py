"""How far something long is: a bar on a terminal, and now and then a line where there is none."""

from __future__ import annotations

__all__ = ["lines_of_progress", "show_progress"]

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from ropo.core.errors import UserError

_PAUSE = 30.0  # seconds between two lines


@contextmanager
def show_progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show on standard error how far something is, and yield what moves it on by a number of steps.

    Args:
        description: What is done.
        total: Steps in all.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    if not Console(stderr=True).is_terminal:
        yield lines_of_progress(description, total)
        return
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(description, total=total)
        try:
            yield lambda steps: progress.advance(task, steps)
        except UserError:  # which is told in one line: nothing is left of the bar
            progress.live.transient = True
            raise


def lines_of_progress(
    description: str, total: int, say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True)
) -> Callable[[int], None]:
    """Return what says, every half a minute at most, how far something is and what time is left.

    Args:
        description: What is done.
        total: Steps in all.
        say: What prints a line; standard error by default.
    """
    started = told = time.monotonic()
    done = 0

    def advance(steps: int) -> None:
        nonlocal done, told
        done += steps
        now = time.monotonic()
        if now - told >= _PAUSE and 0 < done < total:
            left = timedelta(seconds=round((now - started) / done * (total - done)))
            say(f"{description}: {done}/{total}, about {left} left")
            told = now

    return advance
