"""Compile the C kernels with the machine's own compiler, once per machine, and load them.

Why not `torch.utils.cpp_extension`: it needs ninja, a C++ compiler and Python's headers. Plain C, called by `ctypes`,
needs `cc` alone.
"""

from __future__ import annotations

__all__ = ()

import contextlib
import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ropo.core.cache import cache_root

SOURCES = tuple(sorted(Path(__file__).parent.glob("*.c")))
HEADERS = tuple(sorted(Path(__file__).parent.glob("*.h")))
# Not -ffast-math: a library linked with it would make every thread of the process flush small numbers to zero.
FLAGS = ("-O3", "-funroll-loops", "-march=native", "-fopenmp", "-shared", "-fPIC")

NUMBERS_FOR_A_THREAD = 1 << 15
"""Of activations, as PyTorch deals them: fewer are worked on sooner than another thread is awake."""


@cache
def compiler() -> str | None:
    """Return the C compiler to use, that of the variable CC or else cc; None without one and off Linux."""
    # Elsewhere torch's threads come from another library than the compiler's, and the two would fight for the cores.
    return shutil.which(os.environ.get("CC", "cc")) if sys.platform == "linux" else None


def threads_for(numbers: int) -> int:
    """Return how many threads are to work on so many numbers."""
    return min(torch.get_num_threads(), max(numbers // NUMBERS_FOR_A_THREAD, 1))


def call(function: str, sizes: tuple[int, ...], tensors: tuple[Tensor | None, ...]) -> None:
    """Call a kernel with its sizes and contiguous float32 tensors, ordered as in C.

    Args:
        function: Its name in C.
        sizes: Whole numbers, the number of threads among them.
        tensors: What it reads and writes; None for what is not there, in C a null pointer.
    """
    kernel = _kernel(function, len(sizes), len(tensors))
    kernel(*sizes, *(None if tensor is None else tensor.data_ptr() for tensor in tensors))


@cache
def _kernel(function: str, integers: int, pointers: int) -> Callable[..., None]:
    kernel = getattr(_library(), function)
    kernel.argtypes = [ctypes.c_longlong] * integers + [ctypes.c_void_p] * pointers
    kernel.restype = None
    return kernel


@cache
def _library() -> ctypes.CDLL:
    """Load the kernels, compiled for this very processor: a home folder may serve machines of several kinds."""
    command = [str(compiler()), *FLAGS, *map(str, SOURCES), "-lm"]
    content = [*command, *(file.read_text("utf-8") for file in SOURCES + HEADERS), _processor()]
    name = f"kernels-{hashlib.sha256('|'.join(content).encode()).hexdigest()[:16]}.so"
    folder = cache_root()
    if (folder / name).exists():
        return ctypes.CDLL(str(folder / name))
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary, name)
        done = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"{command[0]} could not compile them: {done.stderr.strip()[:500]}")
        with contextlib.suppress(OSError):  # where nothing can be kept, the next process compiles again
            _keep(made, folder)
        return ctypes.CDLL(str(made))


def _keep(made: Path, folder: Path) -> None:
    """Copy a file into a folder, where it appears as a whole: another process may be doing the same."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as unfinished:
        shutil.copy(made, unfinished)
        Path(unfinished, made.name).replace(folder / made.name)


def _processor() -> str:
    """Return what Linux says of the first processor, less what changes with time."""
    described = Path("/proc/cpuinfo").read_text("utf-8").split("\n\n")[0]
    return "\n".join(
        line for line in described.splitlines() if line.startswith(("vendor_id", "model", "flags", "CPU", "Features"))
    )
