"""What is written as typed JSON: measured numbers, how they were made, and the record of a run, `run.json`."""

from __future__ import annotations

__all__ = [
    "FILE_NAME",
    "LIBRARIES",
    "Measure",
    "Provenance",
    "RunRecord",
    "Source",
    "device_name",
    "git_commit",
    "library_versions",
    "read_record",
    "read_typed",
]

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ropo.core.errors import UserError
from ropo.core.files import write_atomically

FILE_NAME = "run.json"
LIBRARIES = ("ropo", "torch", "transformers", "peft", "trl", "datasets", "accelerate")

_Status = Literal["running", "finished"]
_Typed = TypeVar("_Typed", bound=BaseModel)


class Measure(BaseModel):
    """Measured numbers; a number that is undefined for the input is None, and NaN or infinity is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Source(BaseModel):
    """Say what a run read: its name, and a fingerprint of its content."""

    model_config = ConfigDict(extra="forbid")

    name: str
    sha256: str
    counts: dict[str, int] = Field(default_factory=dict)

    @classmethod
    def of(cls, name: str, content: str, **counts: int) -> Source:
        """Name what was read, with the hash of its content as a text, and what it held so many of."""
        return cls(name=name, sha256=hashlib.sha256(content.encode()).hexdigest(), counts=counts)


class Provenance(BaseModel):
    """Say how something that a command wrote was made; the base of run records, results and reports.

    Attributes:
        command: The command line, without the program's name.
        versions: Versions of Python and of the libraries that decide the result.
        device: The device in words.
        git_commit: The commit of ropo itself where it runs from a checkout.
    """

    command: list[str] = Field(default_factory=lambda: sys.argv[1:])
    versions: dict[str, str] = Field(default_factory=lambda: library_versions())
    device: str = Field(default_factory=lambda: device_name())
    git_commit: str | None = Field(default_factory=lambda: git_commit())


class RunRecord(Provenance):
    """Describe one run of a command: what went in, with which versions, and what came out.

    Attributes:
        schema_version: Version of this schema; readers refuse others.
        status: `finished` only if the output is complete.
        started: When the run began, in UTC.
        ended: When it ended.
        seed: Seed of every random draw.
        config: Every option with the value it had.
        model: The base model; the fingerprint is that of `ropo.lm.fingerprint.fingerprint_source`, as in results.
        data: The data sets by their use, such as `train` and `held_out`.
        metrics: What was measured, by name.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    status: _Status = "running"
    started: datetime = Field(default_factory=lambda: datetime.now(UTC))
    ended: datetime | None = None
    seed: int | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    model: Source | None = None
    data: dict[str, Source] = Field(default_factory=dict)
    metrics: dict[str, Any] = Field(default_factory=dict)

    def finish(self, metrics: dict[str, Any]) -> RunRecord:
        """Return the record of the same run, finished now with these metrics."""
        return self.model_copy(update={"status": "finished", "ended": datetime.now(UTC), "metrics": metrics})

    def write(self, folder: Path) -> None:
        """Write the record to `run.json` in a folder."""
        write_atomically(folder / FILE_NAME, self.model_dump_json(indent=2) + "\n")


def read_record(folder: Path) -> RunRecord:
    """Read the record of a run.

    Raises:
        UserError: If the folder has no `run.json`, or it is not a record of this schema.
    """
    mends = ("name the output folder of a ropo command", "run it again")
    return read_typed(RunRecord, folder / FILE_NAME, "a run record of schema 1", *mends)


def read_typed(kind: type[_Typed], file: Path, what: str, where: str, mend: str) -> _Typed:
    """Read a typed JSON file.

    Args:
        kind: The pydantic model that it was written from.
        file: The file.
        what: What it should be, in words.
        where: What to do where it is missing.
        mend: What to do where it is something else.

    Raises:
        UserError: If there is no such file, or it does not follow the model.
    """
    if not file.is_file():
        raise UserError(f"{file.parent}: has no {file.name}; {where}")
    try:
        return kind.model_validate_json(file.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "content"
        raise UserError(f"{file}: is not {what} ({field}: {first['msg']}); {mend}") from error


def device_name() -> str:
    """Return the name of the device that training would use."""
    import torch  # this room is loaded without it, for commands that print help

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"


def library_versions(libraries: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Return the versions of Python and of the installed libraries that decide a result."""
    return {"python": platform.python_version()} | {name: found for name in libraries if (found := _version(name))}


def git_commit() -> str | None:
    """Return the commit of ropo's own checkout, with `-dirty` for uncommitted changes; None for an installed wheel."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _version(name: str) -> str | None:
    try:
        return _torch_version() if name == "torch" else version(name)
    except PackageNotFoundError:
        return None


def _torch_version() -> str:
    """Return torch's version with its build (+cu128), which the metadata of PyPI's wheels leave out, unimported."""
    package = find_spec("torch")
    if package is None or package.origin is None:
        raise PackageNotFoundError("torch")
    return str(run_path(str(Path(package.origin).with_name("version.py")))["__version__"])
