"""An append-only file of finished batches: a killed run continues from it and samples nothing twice."""

from __future__ import annotations

__all__ = ["Journal"]

import json
import os
from pathlib import Path
from typing import Any

from ropo.core.errors import UserError
from ropo.core.files import write_atomically


class Journal:
    """Keep finished work in JSON Lines: a header that says what is being made, then one line per batch.

    A line is the unit of work, so that a continued run has the same batches, and with them the same rounding, as an
    uninterrupted one.

    Args:
        path: The file; made with its folder if missing.
        header: What the work depends on. A file with another header is refused, not continued.

    Raises:
        UserError: If the file was begun with another header; names the first difference.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path = path
        lines = _complete_lines(path)
        if lines:
            _require_same(path, json.loads(lines[0]), header)
        self.entries: list[dict[str, Any]] = [json.loads(line) for line in lines[1:]]
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(line + "\n" for line in lines) or json.dumps(header) + "\n"
        write_atomically(path, text)  # cuts off what a kill tore
        self._file = path.open("a", encoding="utf-8")

    def append(self, entry: dict[str, Any]) -> None:
        """Write an entry and wait until the disk has it."""
        self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.entries.append(entry)

    def close(self) -> None:
        """Close the file, which stays where it is."""
        self._file.close()


def _complete_lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    *lines, _torn = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return lines


def _require_same(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name in wanted | found:
        if found.get(name) != wanted.get(name):
            raise UserError(
                f"{path}: was begun with {name} {found.get(name)}, now {wanted.get(name)}; "
                "delete it to start afresh, or give the settings it was begun with"
            )
