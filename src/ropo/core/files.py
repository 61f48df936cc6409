"""Files and folders that a kill or a power cut leaves whole or not at all."""

from __future__ import annotations

__all__ = ["check_file", "is_full_disk", "name_finished", "read_text", "replace_atomically", "write_atomically"]

import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from ropo.core.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_atomically(path: Path, text: str, on_disk: bool = True) -> None:
    """Write a text so that a kill leaves either the old file or the new one, never a part; see `replace_atomically`."""
    replace_atomically(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"), on_disk)


def replace_atomically(path: Path, write: Callable[[Path], object], on_disk: bool = True) -> None:
    """Let `write` make a file under another name, then give it its own.

    The other name is the thread's own: several may make one file, and the last one counts.

    Args:
        path: The file.
        write: Makes a file of the name that it is given.
        on_disk: Whether to wait until the disk has it, so that a power cut leaves no part either; 10 ms or so.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        write(unfinished)
        if on_disk:
            sync(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def check_file(what: str, file: Path) -> None:
    """Raise `UserError` if a file that a user named is not there; the message begins with what it is for."""
    if not file.is_file():
        raise UserError(f"{what} {file}: no such file; check the path")


def read_text(file: Path, what: str) -> str:
    """Read a text file that a user named.

    Args:
        file: The file.
        what: What it is for, as the message begins: `text`, say.

    Raises:
        UserError: If there is no such file, or it is not UTF-8.
    """
    check_file(what, file)
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{what} {file}: is not UTF-8 ({error.reason} at byte {error.start}); convert it") from error


def is_full_disk(error: BaseException) -> bool:
    """Tell whether a disk was full; libraries written in Rust raise errors of their own then."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return any(f"(os error {number})" in str(error) for number in _FULL)


def sync(path: Path) -> None:
    """Wait until the disk has a file, or a folder's list of names.

    Windows waits only for files that are open for writing; it has no such list to wait for.
    """
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def name_finished(unfinished: Path, folder: Path) -> None:
    """Give a finished folder its name when the disk has everything in it; an earlier one of that name gives way."""
    for path in [*unfinished.rglob("*"), unfinished]:
        sync(path)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(unfinished, folder)
    sync(folder.parent)
