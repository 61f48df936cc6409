"""A file of everything the trainer logged, one JSON object a line."""

from __future__ import annotations

__all__ = ()

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ropo.core.files import write_atomically

_FILE_NAME = "metrics.jsonl"


class MetricsFile(TrainerCallback):
    """Append every log to `metrics.jsonl` as it comes, so that a killed run leaves its numbers."""

    def __init__(self, folder: Path) -> None:
        """Write in this folder."""
        self.file = folder / _FILE_NAME
        self.started = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Drop what was written after the checkpoint that training goes on from, and a line that a kill tore."""
        if not state.is_world_process_zero or not self.file.is_file():
            return
        lines = self.file.read_text(encoding="utf-8").splitlines()[: len(state.log_history)]
        write_atomically(self.file, "".join(line + "\n" for line in lines))
        if lines:
            self.started = time.monotonic() - json.loads(lines[-1])["seconds"]

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append one line: the step, the seconds since the start, and what was logged under TRL's names."""
        if not state.is_world_process_zero:
            return
        entry = {"step": state.global_step, "seconds": round(time.monotonic() - self.started, 3), **(logs or {})}
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
