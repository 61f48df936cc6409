"""Rows of results kept on disk under a name made from what they depend on: a killed run goes on where it stopped."""

from __future__ import annotations

__all__ = ["content_key", "kept_rows"]

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ropo.core.journal import Journal


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
