"""Folders that are either finished or visibly not."""

from __future__ import annotations

__all__ = ["check_output", "display", "finished_folder", "working_folder"]

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ropo.core.errors import UserError
from ropo.core.files import name_finished
from ropo.core.record import FILE_NAME

_INCOMPLETE = ".incomplete"


def working_folder(output: Path) -> Path:
    """Return the sibling folder that is written to until `output` is complete."""
    return output.with_name(output.name + _INCOMPLETE)


def check_output(output: Path, overwrite: bool, resume: bool = False) -> None:
    """Refuse an output folder that holds something, before any work is done.

    Args:
        output: The folder to be made.
        overwrite: Whether an earlier output of ropo may be replaced, or an unfinished one dropped.
        resume: Whether an unfinished run is to be carried on.

    Raises:
        UserError: If the folder, or the unfinished one beside it, is not empty; with `overwrite`, only if it holds
            something that ropo did not write.
    """
    if output.exists() and not output.is_dir():
        raise UserError(f"output {output}: is a file; name a folder")
    if _is_filled(output):
        if not overwrite:
            raise UserError(f"output {output}: the folder is not empty; choose another one or add --overwrite")
        if not (output / FILE_NAME).is_file():
            raise UserError(
                f"output {output}: --overwrite replaces only an earlier output of ropo (a folder with {FILE_NAME}); "
                "choose another folder"
            )
    unfinished = working_folder(output)
    if _is_filled(unfinished) and not overwrite and not resume:
        raise UserError(
            f"output {unfinished}: is left from a run that did not finish, or is still running; start afresh with "
            "--overwrite, or carry on with --resume"
        )


@contextmanager
def finished_folder(output: Path, overwrite: bool, resume: bool = False) -> Iterator[Path]:
    """Yield a sibling folder to write to, which takes its final name only when the block ends well.

    A run that fails leaves nothing, unless it has checkpoints; a killed one leaves a folder named `*.incomplete`.

    Args:
        output: The folder to be made.
        overwrite: Whether an earlier output may be replaced.
        resume: Whether an unfinished run is carried on.

    Raises:
        UserError: As in `check_output`.
    """
    check_output(output, overwrite, resume)
    folder = working_folder(output)
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except BaseException:
        if not list(folder.glob("checkpoint-*")):
            shutil.rmtree(folder)
        raise
    name_finished(folder, output)


def _is_filled(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def display(path: Path) -> str:
    """Return a path as a user would type it: relative where it lies below the current folder."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
