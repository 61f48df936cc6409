"""Read one file of records, whatever it is written in."""

from __future__ import annotations

__all__ = ["Record", "read_file"]

import csv
import io
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ropo.core.errors import UserError
from ropo.core.json_lines import opened, parse_json, read_json, read_json_lines
from ropo.preferences.formats.columns import BESIDE, MEDIA
from ropo.preferences.formats.turns import is_written_out
from ropo.preferences.tables import records_of

_LONGEST_CELL = 2**31 - 1  # Python's own limit for a cell of a CSV file, 131,072 characters, is less than a long answer
_NOTHING = ("[]", "{}", "null", "None")  # in a cell of images or tools; as an answer they may be a text
# What a list of messages looks like in a table of texts, as JSON or as Python prints it.
_MESSAGES = re.compile(r"""\s*\[\s*\{\s*['"](role|content|from|value)['"]\s*:""")


class Record(NamedTuple):
    """One record: its place, such as `pairs.jsonl:17`, its number there, and its fields."""

    where: str
    number: int
    fields: dict[str, Any]


def kind_of(path: Path) -> str | None:
    """Return the suffix that says what a file is written in, `.gz` aside; None where we cannot read it."""
    packed = path.suffix == ".gz"
    suffix = Path(path.stem).suffix if packed else path.suffix
    return suffix if suffix in _READERS and not (packed and suffix == ".parquet") else None


def known_kinds() -> str:
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
    kind = kind_of(path)
    if kind is None:
        raise UserError(f"{what} {path}: is not a {known_kinds()} file; convert it to JSON Lines")
    if not path.is_file():
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
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise UserError(f"{what} {path}:1: has two columns named {repeated!r}; rename or drop one")
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
    import pyarrow
    import pyarrow.parquet

    def batches() -> Iterable[Any]:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            repeated = next((name for name in names if names.count(name) > 1), None)
            if repeated is not None:
                raise UserError(f"{what} {path}: has two columns named {repeated!r}; rename or drop one")
            yield from file.iter_batches()

    try:
        for number, record in enumerate(records_of(batches()), start=1):
            yield Record(f"{path}: row {number}", number, record)
    except UserError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise UserError(f"{what} {path}: is not a readable Parquet file ({error}); write it again") from error


_READERS: dict[str, Callable[[str, Path], Iterator[Record]]] = {
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".csv": lambda what, path: _read_separated(what, path, ","),
    ".tsv": lambda what, path: _read_separated(what, path, "\t"),
    ".parquet": _read_parquet,
}
