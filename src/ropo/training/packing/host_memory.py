"""Keep the C library from hoarding freed memory while activations come and go.

Every aligned allocation of glibc before 2.38 leaves slivers that small allocations settle in, so that the hole which a
freed tensor leaves is too small for the next tensor of its size: memory grows by most of a layer's activations at
every layer. (Tensors above 32 MiB are not affected: they are mapped, and unmapped, on their own.)
"""

from __future__ import annotations

__all__ = ()

import ctypes
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

SLACK = 2**30
"""Bytes by which resident memory may grow before idle memory is given back."""


class IdleMemory:
    """Give idle memory back to the system whenever resident memory has grown by `SLACK`.

    Args:
        resident: Returns the process's resident memory, in bytes.
        trim: Gives freed memory back.
    """

    def __init__(self, resident: Callable[[], int], trim: Callable[[], object]) -> None:
        self._resident, self._trim = resident, trim
        self._low = resident()

    def check(self) -> None:
        """Give idle memory back if it is time; some 10 microseconds where it is not."""
        now = self._resident()
        if now > self._low + SLACK:
            self._trim()
            self._low = self._resident()
        self._low = min(self._low, now)


@cache
def idle_memory() -> IdleMemory | None:
    """Return the process's watch over idle memory; None where the C library is not glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    statm = Path("/proc/self/statm")
    if trim is None or not statm.exists():
        return None
    page = os.sysconf("SC_PAGE_SIZE")
    return IdleMemory(lambda: int(statm.read_text().split()[1]) * page, lambda: trim(0))
