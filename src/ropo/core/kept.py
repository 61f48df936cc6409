"""Finished work kept on disk as it comes, under what it depends on: a killed run goes on and does nothing twice."""

from __future__ import annotations

__all__ = ["Journal", "content_key", "kept_rows"]

import hashlib
import json
import os
from collections.abc import Callable, Iterable
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


def content_key(wanted: Any) -> str:
    """Return a name made from JSON content: equal content, equal name."""
    return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:32]


def kept_rows(
    folder: Path,
    wanted: dict[str, Any],
    total: int,
    compute: Callable[[int], Iterable[list[Any]]],
    advance: Callable[[int], None] = lambda rows: None,
) -> list[Any]:
    """Return rows computed now or kept from an earlier run.

    Args:
        folder: Where they are kept; made if missing.
        wanted: Everything that the rows depend on, as JSON: the file's name is its hash, its first line the content.
        total: Number of rows.
        compute: Yields the rows from a number on, chunk by chunk, as JSON; called only if some are missing.
        advance: Called with the number of rows of each chunk, kept ones first; for a progress bar.

    Returns:
        All rows in order, as they come out of JSON.
    """
    journal = Journal(folder / f"{content_key(wanted)}.jsonl", wanted)
    try:
        rows = [row for entry in journal.entries for row in entry["rows"]]
        advance(len(rows))
        if len(rows) < total:
            for chunk in compute(len(rows)):
                journal.append({"rows": chunk})
                rows += journal.entries[-1]["rows"]
                advance(len(chunk))
    finally:
        journal.close()
    return rows


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
