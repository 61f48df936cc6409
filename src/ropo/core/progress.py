"""How far something long is: a bar on a terminal, and now and then a line where there is none."""

from __future__ import annotations

__all__ = ["lines_of_progress", "progress_bar", "show_progress"]

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from ropo.core.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_PAUSE = 30.0  # seconds between two lines


@contextmanager
def show_progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show on standard error how far something is, and yield what moves it on by a number of steps.

    Args:
        description: What is done.
        total: Steps in all.
    """
    from rich.console import Console

    if not Console(stderr=True).is_terminal:
        yield lines_of_progress(description, total)
        return
    with progress_bar(Console(stderr=True)) as progress:
        task = progress.add_task(description, total=total)
        try:
            yield lambda steps: progress.advance(task, steps)
        except UserError:  # which is told in one line: nothing is left of the bar
            progress.live.transient = True
            raise


def progress_bar(console: Console, transient: bool = False) -> Progress:
    """Return a bar that says of each of its two clocks what it shows.

    Args:
        console: Where it is drawn.
        transient: Whether it vanishes at the end.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    clocks = (TimeElapsedColumn(), TextColumn("elapsed,"), TimeRemainingColumn(), TextColumn("left"))
    return Progress(*columns, *clocks, console=console, transient=transient)


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
