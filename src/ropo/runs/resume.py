"""`ropo train --resume`: what there is to go on from, and whether the options still say the same."""

from __future__ import annotations

__all__ = ()

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from ropo.core.errors import RunStoppedError, UserError
from ropo.core.files import is_full_disk
from ropo.core.output import display
from ropo.core.record import FILE_NAME, RunRecord, read_record
from ropo.training.checkpoints.folder import checkpoints_of, newest_whole

# Sources, which are compared by their content instead; and what changes no weight.
FREE = {"model", "data", "eval_data", "base_model_name_or_path", "output", "overwrite", "resume"}
FREE |= {"output_dir", "resume_from_checkpoint", "report_to", "run_name", "disable_tqdm", "push_to_hub", "local_rank"}
FREE |= {"dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "project", "_n_gpu"}
FREE |= {"anchor_text"}
FREE |= {"skip_non_finite"}  # or a run that met such a step could not go on
_SHARE = "per_device_train_batch_size"
_FREE_PREFIXES = ("ddp_", "logging_", "log_", "save_", "hub_", "trackio_", "dataloader_prefetch")


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


def continue_record(folder: Path, record: RunRecord, console: Console) -> RunRecord:
    """Return the record of the run that goes on.

    Args:
        folder: The run's folder.
        record: What the options of this command describe.
        console: Where other versions of the libraries are told.

    Raises:
        UserError: Naming the first option, model or data set that is not as it was.
    """
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


@contextmanager
def telling_of_full_disk(folder: Path) -> Iterator[None]:
    """Turn "no space left" into a line that says how much to free, and where.

    Raises:
        RunStoppedError: Where a disk is full.
    """
    try:
        yield
    except Exception as error:
        if not is_full_disk(error):
            raise
        raise RunStoppedError(_what_to_free(folder)) from error


def _what_to_free(folder: Path) -> str:
    checkpoint, _ = newest_whole(folder)
    where = folder if folder.exists() else folder.parent
    free = shutil.disk_usage(where).free / 2**20
    if checkpoint is None:
        kept = "no checkpoint was complete"
        size = sum(path.stat().st_size for path in where.rglob("*") if path.is_file())
    else:
        kept = f"{display(checkpoint)} is complete: give the same command with --resume then"
        size = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    older = [display(path) for path in checkpoints_of(folder) if path != checkpoint]
    hint = f", for example {', '.join(older)}" if older else ""
    return (
        f"the disk of {display(where)} is full ({free:.1f} MiB left); free at least {2 * size / 2**20 + 1:.0f} MiB "
        f"there{hint}; {kept}"
    )


def _comparable(record: RunRecord, processes: int) -> dict[str, Any]:
    """Flatten a record into names and values that decide the result, as JSON has them.

    What counts of a batch is all processes' pairs: a run may go on with others, of which each has another share.

    Args:
        record: The record.
        processes: How many there were, for a record that does not say.
    """
    plain = json.loads(record.model_dump_json())
    config = plain["config"]
    values = {"model (content)": (plain["model"] or {}).get("sha256")}
    values |= {f"{use} data (content)": source["sha256"] for use, source in plain["data"].items()}
    options = {**config, **(config.get("adapter") or {}), **(config.get("trainer") or {})}
    for name, value in options.items():
        if name not in FREE and name not in ("adapter", "trainer") and not name.startswith(_FREE_PREFIXES):
            values[name] = sorted(value) if isinstance(value, list) and _are_names(value) else value
    share = values.pop(_SHARE, None)
    if share is not None:
        values[f"{_SHARE} (all processes)"] = share * (values.pop("processes", None) or processes)
    return values


def _are_names(values: list[Any]) -> bool:
    return all(isinstance(value, str) for value in values)
