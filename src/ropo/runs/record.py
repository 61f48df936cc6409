"""The record of a run that is about to start, or to go on."""

from __future__ import annotations

__all__ = ()

import dataclasses
import hashlib
import sys
from pathlib import Path
from typing import Any

from peft import PeftModel
from rich.console import Console

from ropo.core.record import RunRecord, Source, device_name
from ropo.preferences.data import PreferenceData
from ropo.runs.options import TrainOptions
from ropo.runs.resume import continue_record
from ropo.training.distributed.processes import by_the_first
from ropo.training.distributed.sequence import sharers
from ropo.training.trainer import PreferenceTrainer


def describe(
    options: TrainOptions,
    method: str,
    trainer: PreferenceTrainer,
    pairs: PreferenceData,
    held_out: PreferenceData | None,
    fingerprint: str,
) -> RunRecord:
    """Make the record of the run that is about to start."""
    model: Any = trainer.model
    own = {key: value for key, value in dataclasses.asdict(options).items() if key not in ("trainer", "adapter")}
    adapter = model.peft_config["default"].to_dict() if isinstance(model, PeftModel) else None
    data = {"train": pairs} | ({"held_out": held_out} if held_out else {})
    sources = {use: _as_source(each) for use, each in data.items()}
    if anchor := trainer.args.anchor_text:
        sources["anchor_text"] = Source(name=anchor, sha256=hashlib.sha256(Path(anchor).read_bytes()).hexdigest())
    return RunRecord(
        command=sys.argv[1:],
        seed=trainer.args.seed,
        config={
            **own,
            "method": method,
            "processes": sharers(trainer.args),  # that have pairs of their own
            "adapter": adapter,
            "trainer": trainer.args.to_dict(),
        },
        model=Source(name=options.model, sha256=fingerprint),
        data=sources,
        device=device_name(),
    )


def continued(folder: Path, record: RunRecord, console: Console) -> RunRecord:
    """Return the record of the run that goes on, by `continue_record`, in every process."""
    kept = by_the_first(lambda: continue_record(folder, record, console).model_dump_json())
    return RunRecord.model_validate_json(kept)


def _as_source(data: PreferenceData) -> Source:
    counts = {"pairs": len(data), "duplicates": data.duplicates, "ties": data.ties, "wrapped": data.wrapped}
    return Source(name=data.source, sha256=data.sha256, counts=counts)
