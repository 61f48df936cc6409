"""A file of everything the trainer logged, one JSON object a line."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

FILE_NAME = "metrics.jsonl"


class Journal(TrainerCallback):
    """Append every log to `metrics.jsonl` as it comes, so that a killed run leaves its numbers."""

    def __init__(self, folder: Path) -> None:
        """Write in this folder."""
        self.file = folder / FILE_NAME
        self.started = time.monotonic()

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
