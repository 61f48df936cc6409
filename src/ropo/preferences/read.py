"""Read raw records, each with the place it came from, out of files, folders and hub datasets."""

from __future__ import annotations

__all__ = ()

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ropo.core.errors import UserError
from ropo.core.hub import hub_reason, tell_asking
from ropo.preferences.files import Record, kind_of, known_kinds, read_file
from ropo.preferences.splits import files_of_split
from ropo.preferences.tables import records_of


def read_records(source: str, split: str) -> Iterator[Record]:
    """Yield every record of a data source with its place.

    Args:
        source: A file as in `ropo.preferences.files.read_file`, a folder of such files or one written by
            `datasets.save_to_disk`, or the id of a dataset on the hub.
        split: The split of a folder, as in `ropo.preferences.splits.files_of_split`, or of a hub dataset.

    Raises:
        UserError: If there is no such file or split, it is empty, or it cannot be parsed.

    Cost: streamed, but for `.json`, which is held in memory.
    """
    path = Path(source)
    if path.is_dir():
        yield from _read_folder(path, split)
    elif kind_of(path):
        yield from _read_files([path])
    elif path.exists():
        raise UserError(f"data {source}: is not a {known_kinds()} file; convert it to JSON Lines")
    else:
        yield from _read_hub(source, split)


def _read_files(files: list[Path]) -> Iterator[Record]:
    for file in files:
        yield from read_file("data", file)


def _read_folder(folder: Path, split: str) -> Iterator[Record]:
    saved = folder / "dataset_dict.json"
    if saved.is_file():
        if not (folder / split).is_dir():
            splits = json.loads(saved.read_bytes()).get("splits", [])
            raise UserError(
                f"data {folder}: the saved dataset has no split {split!r}, only {', '.join(splits)}; name one"
            )
        folder = folder / split
    if (folder / "state.json").is_file():
        from datasets import load_from_disk

        yield from _number(load_from_disk(str(folder)), str(folder))
    else:
        yield from _read_files(files_of_split(folder, split))


def _read_hub(name: str, split: str) -> Iterator[Record]:
    from datasets import load_dataset

    tell_asking("data", name)
    try:
        rows = load_dataset(name, split=split)
    except Exception as error:  # the hub answers with a dozen unrelated exception types
        raise UserError(
            f"data {name}: is neither a file nor a folder, and the hub gave no split {split!r} of it "
            f"({hub_reason(error)}); check the name"
        ) from error
    yield from _number(rows, f"{name} [{split}]")


def _number(rows: Any, name: str) -> Iterator[Record]:
    """Read a dataset as the Arrow tables it is made of: its own way to Python gives records foreign nulls."""
    tables = rows.with_format("arrow").iter(batch_size=1000)
    for number, record in enumerate(records_of(tables), start=1):
        yield Record(f"{name}: row {number}", number, record)
