"""Read raw records, each with the place it came from, out of files, folders and hub datasets."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ropo.core.errors import UserError
from ropo.core.json_lines import read_json, read_json_lines

SUFFIXES = (".jsonl", ".json", ".parquet")

Record = tuple[str, dict[str, Any]]  # where it stands, what it holds


def read_records(source: str, split: str) -> Iterator[Record]:
    """Yield every record of a data source with its place.

    Args:
        source: A `.jsonl`, `.json` or `.parquet` file, a folder of such files or one written by
            `datasets.save_to_disk`, or the id of a dataset on the hub.
        split: The split of a hub dataset. In a folder, the files named after it (`train.jsonl`, `x.train-0.parquet`)
            are read, and all files where none is named after any split.

    Yields:
        Pairs of a place such as `pairs.jsonl:17` (the line in the file) and the record's fields.

    Raises:
        UserError: If there is no such file, it is empty, or it cannot be parsed.

    Cost: `.jsonl` and `.parquet` files are streamed; a `.json` file is held in memory.
    """
    path = Path(source)
    if path.suffix in SUFFIXES:
        yield from _read_file(path)
    elif path.is_dir():
        yield from _read_folder(path, split)
    elif path.exists():
        raise UserError(f"data {source}: is not a {', '.join(SUFFIXES)} file; convert it to JSON Lines")
    else:
        yield from _read_hub(source, split)


def _read_file(path: Path) -> Iterator[Record]:
    if not path.is_file():
        raise UserError(f"data {path}: no such file; check the path")
    if not path.stat().st_size:
        raise UserError(f"data {path}: the file is empty; it needs one preference pair a line")
    readers = {".jsonl": _read_json_lines, ".json": _read_json, ".parquet": _read_parquet}
    yield from readers[path.suffix](path)


def _read_json_lines(path: Path) -> Iterator[Record]:
    for number, record in read_json_lines("data", path):
        yield f"{path}:{number}", record


def _read_json(path: Path) -> Iterator[Record]:
    """Read an array of records; where the file is JSON Lines under another name, read those."""
    if not path.read_bytes().removeprefix(BOM_UTF8).lstrip().startswith(b"["):
        yield from _read_json_lines(path)
        return
    for number, record in enumerate(read_json("data", path), start=1):
        where = f"{path}: record {number}"
        if not isinstance(record, dict):
            raise UserError(f"data {where}: is a {type(record).__name__}, not an object; write one object a record")
        yield where, record


def _read_parquet(path: Path) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            repeated = next((name for name in names if names.count(name) > 1), None)
            if repeated is not None:
                raise UserError(f"data {path}: has two columns named {repeated!r}; rename or drop one")
            number = 0
            for batch in file.iter_batches():
                for record in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", record
    except UserError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise UserError(f"data {path}: is not a readable Parquet file ({error}); write it again") from error


def _read_folder(folder: Path, split: str) -> Iterator[Record]:
    if (folder / "dataset_dict.json").is_file():
        if not (folder / split).is_dir():
            raise UserError(f"data {folder}: the saved dataset has no split {split!r}; name one of its folders")
        folder = folder / split
    if (folder / "state.json").is_file():
        from datasets import load_from_disk

        for number, record in enumerate(load_from_disk(str(folder)), start=1):
            yield f"{folder}: row {number}", dict(record)
        return
    files = sorted(file for file in folder.rglob("*") if file.suffix in SUFFIXES)
    of_split = [file for file in files if _names(file, re.escape(split))]
    of_any_split = [file for file in files if _names(file, "train|test|validation|eval|dev")]
    chosen = of_split or ([] if of_any_split else files)
    if not chosen:
        raise UserError(
            f"data {folder}: the folder has no {', '.join(SUFFIXES)} file of split {split!r}; name the file itself"
        )
    for file in chosen:
        yield from _read_file(file)


def _names(file: Path, split: str) -> bool:
    return re.search(rf"(?<![a-z])({split})(?![a-z])", file.name) is not None


def _read_hub(name: str, split: str) -> Iterator[Record]:
    from datasets import load_dataset

    try:
        rows = load_dataset(name, split=split)
    except Exception as error:  # the hub answers with a dozen unrelated exception types
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"data {name}: is neither a file nor a folder, and the hub gave no split {split!r} of it ({reason}); "
            "check the name"
        ) from error
    for number, record in enumerate(rows, start=1):
        yield f"{name} [{split}]: row {number}", dict(record)
