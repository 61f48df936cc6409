"""Do several cells of a comparison at a time, in threads that wait for their processes."""

from __future__ import annotations

__all__ = ["SideBySide"]

from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from threading import Event
from typing import TypeVar

from ropo.core.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


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
