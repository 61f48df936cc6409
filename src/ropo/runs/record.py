"""The record of a run that starts or goes on, and what `ropo train --resume` goes on from."""

from __future__ import annotations

__all__ = ()

import dataclasses
import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from peft import PeftModel
from rich.console import Console

from ropo.core.errors import UserError
from ropo.core.output import display
from ropo.core.record import FILE_NAME, RunRecord, Source, device_name, read_record
from ropo.preferences.data import PreferenceData
from ropo.runs.options import TrainOptions
from ropo.training.checkpoints.folder import newest_whole
from ropo.training.distributed.processes import by_the_first
from ropo.training.distributed.sequence import sharers
from ropo.training.trainer import PreferenceTrainer

# Sources, which are compared by their content instead; and what changes no weight.
FREE = {"model", "data", "eval_data", "base_model_name_or_path", "output", "overwrite", "resume"}
FREE |= {"output_dir", "resume_from_checkpoint", "report_to", "run_name", "disable_tqdm", "push_to_hub", "local_rank"}
FREE |= {"dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "project", "_n_gpu"}
FREE |= {"anchor_text"}
FREE |= {"skip_non_finite"}  # or a run that met such a step could not go on
_SETS = {"target_modules", "exclude_modules", "modules_to_save"}  # names in no order; losses have one, their weights'
_SHARE = "per_device_train_batch_size"
_FREE_PREFIXES = ("ddp_", "logging_", "log_", "save_", "hub_", "trackio_", "dataloader_prefetch")


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


def is_finished(output: Path) -> bool:
    """Tell whether a run wrote its final record there."""
    return (output / FILE_NAME).is_file() and read_record(output).status == "finished"


def choose_checkpoint(folder: Path, console: Console) -> Path | None:
    """Find the newest whole checkpoint of an unfinished run and say so; drop those that are not whole.

    Where there is none the folder is emptied, and None returned: the run starts from the beginning.
    """
    checkpoint, faults = newest_whole(folder)
    for faulty, fault in faults.items():
        console.print(f"resume    {display(faulty)} is not used: {fault}")
        shutil.rmtree(faulty)
    if checkpoint is None:
        console.print("resume    there is nothing to go on from: starting from the beginning")
        shutil.rmtree(folder)
        folder.mkdir(parents=True)
    else:
        console.print(f"resume    going on from {display(checkpoint)}")
    return checkpoint


def continued(folder: Path, record: RunRecord, console: Console) -> RunRecord:
    """Return the record of the run that goes on, the same in every process.

    Raises:
        UserError: Naming the first option, model or data set that is not as it was.
    """
    return RunRecord.model_validate_json(by_the_first(lambda: _compared(folder, record, console).model_dump_json()))


def _compared(folder: Path, record: RunRecord, console: Console) -> RunRecord:
    """Return the record that was kept, once it says what the new one says."""
    kept = read_record(folder)
    now = record.config.get("processes", 1)
    old, new = _comparable(kept, now), _comparable(record, now)
    for name in [*old, *(name for name in new if name not in old)]:
        if old.get(name) != new.get(name):
            raise UserError(
                f"{name}: the run in {display(folder)} began with {old.get(name)!r}, not {new.get(name)!r}; give the "
                "same, or start afresh with --overwrite"
            )
    if kept.versions != record.versions:
        changed = [name for name in record.versions if kept.versions.get(name) != record.versions[name]]
        console.print(f"resume    {', '.join(changed)}: not the version that the run began with; rounding may differ")
    return kept


def _as_source(data: PreferenceData) -> Source:
    counts = {"pairs": len(data), "duplicates": data.duplicates, "ties": data.ties, "wrapped": data.wrapped}
    return Source(name=data.source, sha256=data.sha256, counts=counts)


def _comparable(record: RunRecord, processes: int) -> dict[str, Any]:
    """Flatten a record into names and values that decide the result, as JSON has them.

    What counts of a batch is all processes' pairs: a run may go on with others, of which each has another share.
    """
    plain = json.loads(record.model_dump_json())
    config = plain["config"]
    values = {"model (content)": (plain["model"] or {}).get("sha256")}
    values |= {f"{use} data (content)": source["sha256"] for use, source in plain["data"].items()}
    options = {**config, **(config.get("adapter") or {}), **(config.get("trainer") or {})}
    for name, value in options.items():
        if name not in FREE and name not in ("adapter", "trainer") and not name.startswith(_FREE_PREFIXES):
            values[name] = sorted(value) if name in _SETS and isinstance(value, list) else value
    share = values.pop(_SHARE, None)
    if share is not None:
        values[f"{_SHARE} (all processes)"] = share * (values.pop("processes", None) or processes)
    return values
