"""The store of verdicts: a killed run repeats no question that was answered."""

from __future__ import annotations

__all__ = ()

import json
from pathlib import Path
from typing import Any

from ropo.core.files import write_atomically
from ropo.core.kept import content_key


class VerdictStore:
    """Keep each verdict in a small JSON file of its own, named by a hash of what was asked and of whom.

    Why not `ropo.core.kept`: its journals have one writer and a fixed order, while here many threads, and several runs
    that share a cache, write in the order in which answers arrive. Why not `diskcache`, which allows that: its SQLite
    files lock badly on network folders, and a verdict that was paid for should be readable with any editor.

    Args:
        folder: Where they are kept; made when the first is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, asked: dict[str, Any]) -> Any:
        """Return the answer kept for a question, or None; a file that cannot be read counts as none.

        Args:
            asked: Everything that the answer depends on, as JSON.
        """
        try:
            return json.loads(self._file(asked).read_text(encoding="utf-8"))["reply"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, asked: dict[str, Any], reply: Any) -> None:
        """Keep an answer, as JSON, beside its question, whole or not at all."""
        text = json.dumps({**asked, "reply": reply}, ensure_ascii=False)
        write_atomically(
            self._file(asked), text, on_disk=False
        )  # thousands may come; what a power cut tears is asked again

    def _file(self, asked: dict[str, Any]) -> Path:
        key = content_key(asked)
        return self.folder / key[:2] / f"{key}.json"
