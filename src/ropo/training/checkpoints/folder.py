"""A checkpoint's folder: written under another name, listed in a manifest, and checked before it is used."""

from __future__ import annotations

__all__ = ["PREFIX", "checkpoints_of", "newest_whole"]

import hashlib
import json
from pathlib import Path

from ropo.core.files import name_finished

_MANIFEST = "manifest.json"
PREFIX = "checkpoint-"
_UNFINISHED = "unfinished-"
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".distcp"}


def unfinished_folder(folder: Path) -> Path:
    """Return the sibling in which a checkpoint is written until it is whole."""
    return folder.with_name(_UNFINISHED + folder.name)


def complete(folder: Path) -> None:
    """Give what was written to `unfinished_folder(folder)` a manifest and its final name, once the disk has it."""
    unfinished = unfinished_folder(folder)
    files = {str(path.relative_to(unfinished)): _describe(path) for path in sorted(_files(unfinished))}
    (unfinished / _MANIFEST).write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")
    name_finished(unfinished, folder)  # one of that name is of the same step, or what a kill tore


def find_fault(folder: Path) -> str | None:
    """Say what is wrong with a checkpoint; None where every file is as its manifest says and none is a pickle.

    Cost: reads the checkpoint once, about a second for each GB.
    """
    try:
        files = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["files"]
        listed = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"no readable {_MANIFEST}"
    for path in _files(folder):
        name = str(path.relative_to(folder))
        if path.suffix in _PICKLES:
            return f"{name} is a pickle, which is never read"
        if name != _MANIFEST and name not in listed:
            return f"{name} is not in its manifest"
    if "optimizer.json" not in listed:
        return "weights only, without the optimizer"
    for name, (size, digest) in listed.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, not {size}"
        if _digest(path) != digest:
            return f"{name} is damaged (its SHA-256 differs)"
    return None


def checkpoints_of(run: Path) -> list[Path]:
    """Return the checkpoints in a run's folder, the newest first."""
    found = [path for path in run.glob(f"{PREFIX}*") if path.is_dir() and path.name.removeprefix(PREFIX).isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(PREFIX)), reverse=True)


def newest_whole(run: Path) -> tuple[Path | None, dict[Path, str]]:
    """Find the newest checkpoint without a fault, and the faults of those after it."""
    faults: dict[Path, str] = {}
    for checkpoint in checkpoints_of(run):
        fault = find_fault(checkpoint)
        if fault is None:
            return checkpoint, faults
        faults[checkpoint] = fault
    return None, faults


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _describe(path: Path) -> dict[str, int | str]:
    return {"bytes": path.stat().st_size, "sha256": _digest(path)}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
