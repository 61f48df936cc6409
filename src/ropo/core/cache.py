"""The folder of what can be made again: compiled kernels, and models converted from GGUF."""

from __future__ import annotations

__all__ = ["SOURCE", "cache_root", "clear", "gguf_entries", "keep_folder", "size_of"]

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ropo.core.files import name_finished

try:
    import fcntl
except ImportError:  # Windows: two processes may then do the same work, and one result is kept
    fcntl = None  # type: ignore[assignment]


SOURCE = "source.json"  # in a converted copy: what it was made from


def cache_root() -> Path:
    """Return the folder: `$XDG_CACHE_HOME/ropo`, or `~/.cache/ropo`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ropo"


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; what vanishes meanwhile counts for nothing."""
    total = 0
    for file in [path, *(path.rglob("*") if path.is_dir() else ())]:
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:
            continue
    return total


def gguf_entries() -> list[tuple[str, str, Path]]:
    """Return of each converted copy the name of its file, its kind (model or tokenizer) and its folder."""
    entries = []
    for file in sorted((cache_root() / "gguf").glob(f"*/*/{SOURCE}")):
        try:
            entries.append((str(json.loads(file.read_text(encoding="utf-8"))["name"]), file.parent.name, file.parent))
        except (OSError, ValueError, KeyError):
            continue
    return entries


def clear() -> int:
    """Delete everything in the cache; return the bytes that were freed."""
    before = size_of(cache_root())
    for path in list(cache_root().glob("*")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return before - size_of(cache_root())


def keep_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Make a folder whole or not at all, once for all processes that want it.

    Args:
        folder: Where it is to be; nothing happens where it is already.
        write: Fills the folder that it is given, which takes its final name when all of it is on disk.

    Raises:
        OSError: If it cannot be written; nothing of it is left then.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder.parent / f"{folder.name}.lock"):
        if folder.exists():
            return
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
        unfinished.mkdir()
        try:
            write(unfinished)
            name_finished(unfinished, folder)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Wait until no other process is in the block; a process that dies is out of it."""
    with file.open("a") as handle:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
