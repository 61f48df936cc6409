"""The device: what it is, its clock, its memory, and what it reaches at most."""

from __future__ import annotations

import hashlib
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ropo.core.record import git_commit, library_versions

ROOT = Path(__file__).parents[2]


def device() -> torch.device:
    """Return the GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def setting() -> dict[str, Any]:
    """Say what was measured on.

    A lent machine gets the files without their history, so the sources are named by the hash that git gives their
    tree too: `git rev-parse COMMIT:src`.
    """
    on_gpu = device().type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if on_gpu else f"{platform.machine()} CPU, {os.cpu_count()} cores",
        "cuda": torch.version.cuda if on_gpu else None,
        "python": platform.python_version(),
        "versions": {**library_versions(), **_more_versions()},
        "commit": git_commit(),
        "src_tree": tree_hash(ROOT / "src"),
    }


def _more_versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("triton", "bitsandbytes"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def tree_hash(folder: Path) -> str:
    """Return git's hash of a folder, caches and what installing left there aside."""
    entries = []
    for path in folder.iterdir():
        if path.name == "__pycache__" or path.suffix in (".egg-info", ".so"):
            continue
        if path.is_dir():
            if (digest := tree_hash(path)) != EMPTY_TREE:
                entries.append((path.name + "/", b"40000 " + path.name.encode() + b"\0" + bytes.fromhex(digest)))
        else:
            mode = b"100755 " if os.access(path, os.X_OK) and not path.suffix else b"100644 "
            entries.append((path.name, mode + path.name.encode() + b"\0" + _git_hash(b"blob", path.read_bytes())))
    return _git_hash(b"tree", b"".join(entry for _, entry in sorted(entries))).hex()


def _git_hash(kind: bytes, content: bytes) -> bytes:
    return hashlib.sha1(kind + b" %d\0" % len(content) + content).digest()


EMPTY_TREE = _git_hash(b"tree", b"").hex()


def answers() -> bool:
    """Tell whether the device still computes; an illegal access ends that for the whole process."""
    try:
        if device().type == "cuda":
            torch.cuda.empty_cache()
            torch.ones(1, device="cuda").sum().item()
    except Exception:
        return False
    return True


def interleave(functions: dict[str, Callable[[], object]], rounds: int, calls: int = 1) -> dict[str, list[float]]:
    """Time functions in turn, by the device's own clock, so that drift meets all of them alike.

    Args:
        functions: What to time.
        rounds: Times each is timed, after two rounds that are not counted.
        calls: Calls in a row that are timed together: the host runs ahead of the device, as it does in training.

    Returns:
        Seconds of one call for each round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 2):
        for name, function in functions.items():
            taken = _timed(function, calls)
            if number >= 2:
                seconds[name].append(taken / calls)
    return seconds


def _timed(function: Callable[[], object], calls: int) -> float:
    if device().type != "cuda":
        begin = time.perf_counter()
        for _ in range(calls):
            function()
        return time.perf_counter() - begin
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(calls):
        function()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


def median(values: list[float]) -> float:
    """Return the median with the digits that are worth keeping."""
    return float(f"{statistics.median(values):.4g}")


@contextmanager
def peak_memory() -> Iterator[Callable[[], float | None]]:
    """Yield what tells, at the end, the most GiB in use at once since the block began; None on a CPU."""
    on_gpu = device().type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    yield lambda: round(torch.cuda.max_memory_allocated() / 2**30, 3) if on_gpu else None


@lru_cache(maxsize=1)
def ceilings() -> dict[str, float]:
    """Measure what the device reaches: bytes read and written by a copy, and bfloat16 products, a second."""
    on_gpu = device().type == "cuda"
    numbers, width = (2**29, 8192) if on_gpu else (2**20, 256)
    source = torch.randn(numbers // 2, device=device())
    target = torch.empty_like(source)
    a, b = (torch.randn(width, width, device=device(), dtype=torch.bfloat16) for _ in range(2))
    taken = interleave({"copy": lambda: target.copy_(source), "matmul": lambda: a @ b}, 10, 3 if on_gpu else 1)
    return {
        "copy_gb_s": round(2 * source.numel() * 4 / median(taken["copy"]) / 1e9, 1),
        "matmul_tflop_s": round(2 * width**3 / median(taken["matmul"]) / 1e12, 3),
    }
