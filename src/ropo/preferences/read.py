"""Read raw records, each with the place it came from, out of files, folders and hub datasets.

A column of Arrow gives every record the fields of all others: `{"city": "Oslo"}` beside `{"x": 1}` is read back as
`{"city": "Oslo", "x": null}`, which a chat template prints. Null fields inside columns are therefore left out.
"""

from __future__ import annotations

__all__ = ["Record", "read_file"]

import csv
import io
import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import pyarrow.parquet

from ropo.core.errors import UserError
from ropo.core.hub import hub_reason, tell_asking
from ropo.core.json_lines import opened, parse_json, read_json, read_json_lines
from ropo.preferences.formats.columns import BESIDE, MEDIA
from ropo.preferences.formats.turns import is_written_out
from ropo.preferences.splits import files_of_split

_LONGEST_CELL = 2**31 - 1  # Python's own limit for a cell of a CSV file, 131,072 characters, is less than a long answer
_NOTHING = ("[]", "{}", "null", "None")  # in a cell of images or tools; as an answer they may be a text
# What a list of messages looks like in a table of texts, as JSON or as Python prints it.
_MESSAGES = re.compile(r"""\s*\[\s*\{\s*['"](role|content|from|value)['"]\s*:""")


class Record(NamedTuple):
    """One record: its place, such as `pairs.jsonl:17`, its number there, and its fields."""

    where: str
    number: int
    fields: dict[str, Any]


def read_records(source: str, split: str) -> Iterator[Record]:
    """Yield every record of a data source with its place.

    Args:
        source: A file as in `read_file`, a folder of such files or one written by
            `datasets.save_to_disk`, or the id of a dataset on the hub.
        split: The split of a folder, as in `ropo.preferences.splits.files_of_split`, or of a hub dataset.

    Raises:
        UserError: If there is no such file or split, it is empty, or it cannot be parsed.

    Cost: streamed, but for `.json`, which is held in memory.
    """
    path = Path(source)
    if path.is_dir():
        yield from _read_folder(path, split)
    elif _kind_of(path) or path.exists():
        yield from read_file("data", path)
    else:
        yield from _read_hub(source, split)


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

        yield from _numbered_rows(load_from_disk(str(folder)), str(folder))
    else:
        for file in split_of(folder, split):
            yield from read_file("data", file)


def split_of(folder: Path, split: str) -> list[Path]:
    """Return the files of a split that we can read, as in `files_of_split`."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and _kind_of(file)]
    return files_of_split(folder, split, files, _known_kinds())


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
    yield from _numbered_rows(rows, f"{name} [{split}]")


def _numbered_rows(rows: Any, name: str) -> Iterator[Record]:
    """Read a dataset as the Arrow tables it is made of: its own way to Python gives records foreign nulls."""
    tables = rows.with_format("arrow").iter(batch_size=1000)
    for number, record in enumerate(_records_of(tables), start=1):
        yield Record(f"{name}: row {number}", number, record)


def _kind_of(path: Path) -> str | None:
    """Return the suffix that says what a file is written in, `.gz` aside; None where we cannot read it."""
    packed = path.suffix == ".gz"
    suffix = Path(path.stem).suffix if packed else path.suffix
    return suffix if suffix in _READERS and not (packed and suffix == ".parquet") else None


def _known_kinds() -> str:
    """Return the suffixes that we read, in words."""
    return ", ".join(_READERS)


def read_file(what: str, path: Path) -> Iterator[Record]:
    """Yield every record of a file.

    Args:
        what: What the file holds, for messages.
        path: `.jsonl`, `.json` (an array, or lines), `.csv`, `.tsv` (both with a header), each perhaps packed with gzip
            (`.jsonl.gz`), or `.parquet`. UTF-8 throughout.

    Raises:
        UserError: If there is no such file, it holds no record, or it cannot be parsed; with the line if there is one.

    Cost: streamed, but for `.json`, which is held in memory.
    """
    kind = _kind_of(path)
    if kind is None and path.exists():
        raise UserError(f"{what} {path}: is not a {_known_kinds()} file; convert it to JSON Lines")
    if kind is None or not path.is_file():
        raise UserError(f"{what} {path}: no such file; check the path")
    if not path.stat().st_size:
        raise UserError(f"{what} {path}: holds no record; it needs one record a line")
    yield from _READERS[kind](what, path)


def _read_json_lines(what: str, path: Path) -> Iterator[Record]:
    for number, record in read_json_lines(what, path):
        yield Record(f"{path}:{number}", number, record)


def _read_json(what: str, path: Path) -> Iterator[Record]:
    """Read an array of records; where the file is JSON Lines under another name, read those."""
    with opened(what, path) as file:
        is_array = file.read(4096).removeprefix(BOM_UTF8).lstrip().startswith(b"[")
    if not is_array:
        yield from _read_json_lines(what, path)
        return
    for number, record in enumerate(read_json(what, path), start=1):
        where = f"{path}: record {number}"
        if not isinstance(record, dict):
            raise UserError(f"{what} {where}: is a {type(record).__name__}, not an object; write one object a record")
        yield Record(where, number, record)


def _read_separated(what: str, path: Path, separator: str) -> Iterator[Record]:
    """Read a table of texts with a header; cells that hold messages are parsed as JSON."""
    csv.field_size_limit(_LONGEST_CELL)
    with opened(what, path) as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        reader = csv.reader(text, delimiter=separator, strict=True)
        lines = _numbered(what, path, reader)
        _, names = next(lines, (1, []))
        _check_names(f"{what} {path}:1", names)
        for number, cells in lines:
            where = f"{path}:{number}"
            if len(cells) != len(names):
                raise UserError(
                    f"{what} {where}: has {len(cells)} cells where the header names {len(names)}; put cells that hold "
                    "the separator, quotes or line breaks in quotes"
                )
            yield Record(
                where, number, {name: _cell(what, where, name, cell) for name, cell in zip(names, cells, strict=True)}
            )


def _check_names(where: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{where}: has two columns named {name!r}; rename or drop one")


def _numbered(what: str, path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that hold something, each with the line that it starts on."""
    start = 1
    try:
        for cells in reader:
            if cells:
                yield start, cells
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{what} {path}:{start}: {error}; put cells that hold quotes in quotes, and double them"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{what} {path}:{start}: is not UTF-8 ({error.reason}) there or soon after; convert it"
        ) from error


def _cell(what: str, where: str, name: str, cell: str) -> Any:
    if name in (*MEDIA, *BESIDE) and cell.strip() in _NOTHING:
        return None
    if not _MESSAGES.match(cell) and not is_written_out(cell):
        return cell
    try:
        return parse_json(cell.encode())
    except ValueError as error:
        raise UserError(f"{what} {where}: {name} looks like messages but {error}; write them as JSON") from error


def _read_parquet(what: str, path: Path) -> Iterator[Record]:
    def batches() -> Iterable[Any]:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_names(f"{what} {path}", file.schema_arrow.names)
            yield from file.iter_batches()

    try:
        for number, record in enumerate(_records_of(batches()), start=1):
            yield Record(f"{path}: row {number}", number, record)
    except UserError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise UserError(f"{what} {path}: is not a readable Parquet file ({error}); write it again") from error


def _records_of(batches: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Yield the records of Arrow tables or batches, without null fields inside their columns."""
    for batch in batches:
        names = batch.schema.names
        readers = [_reader(field.type) for field in batch.schema]
        columns = [
            column.to_pylist() if reader is None else map(reader, column.to_pylist())
            for column, reader in zip(batch.columns, readers, strict=True)
        ]
        for values in zip(*columns, strict=True):
            yield dict(zip(names, values, strict=True))


def _reader(kind: Any) -> Callable[[Any], Any] | None:
    """Return what makes a column's values ours; None where they are already."""
    if isinstance(kind, pyarrow.JsonType):
        return lambda text: None if text is None else parse_json(text.encode())
    if pyarrow.types.is_struct(kind):
        readers = {field.name: _reader(field.type) or (lambda value: value) for field in kind}
        return lambda value: (
            None if value is None else {name: readers[name](each) for name, each in value.items() if each is not None}
        )
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_fixed_size_list(kind):
        inner = _reader(kind.value_type)
        return inner and (lambda value: None if value is None else [inner(each) for each in value])
    return None


_READERS: dict[str, Callable[[str, Path], Iterator[Record]]] = {
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".csv": lambda what, path: _read_separated(what, path, ","),
    ".tsv": lambda what, path: _read_separated(what, path, "\t"),
    ".parquet": _read_parquet,
}
