"""JSON that came from outside: read strictly, and every fault told with its file and line."""

from __future__ import annotations

__all__ = ["opened", "parse_json", "read_json", "read_json_lines"]

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from ropo.core.errors import UserError
from ropo.core.files import check_file

_DEEPEST = 64  # levels of nesting; what reads the records afterwards recurses


@contextmanager
def opened(what: str, path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading, unpacked where its name ends in `.gz`.

    Raises:
        UserError: If there is no such file, or, while it is read, if it is no whole gzip file.
    """
    check_file(what, path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield cast(BinaryIO, file)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{what} {path}: is no whole gzip file ({error}); pack it again") from error


def read_json_lines(what: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the records of a JSON Lines file, each with the number of its line.

    Args:
        what: What the file holds, for messages.
        path: UTF-8, with one object a line, packed where its name ends in `.gz`; blank lines are skipped.

    Yields:
        Pairs of a line's number, from 1, and its object.

    Raises:
        UserError: If there is no such file, it holds no record, or a line is no JSON object; names the line.

    Cost: streamed, one line in memory at a time.
    """
    empty = True
    with opened(what, path) as file:  # by line feeds only: JSON strings may hold other line separators as they are
        for number, line in enumerate(file, start=1):
            if line.strip():
                empty = False
                try:
                    record = parse_json(line)
                    if not isinstance(record, dict):
                        raise ValueError(f"is a {type(record).__name__}, not an object")
                except ValueError as error:
                    raise UserError(f"{what} {path}:{number}: {error}; write one JSON object a line") from error
                yield number, record
    if empty:
        raise UserError(f"{what} {path}: holds no record; write one JSON object a line")


def read_json(what: str, path: Path) -> Any:
    """Read a whole JSON file, packed where its name ends in `.gz`.

    Raises:
        UserError: If there is no such file, or it is no JSON.
    """
    with opened(what, path) as file:
        content = file.read()
    try:
        return parse_json(content)
    except ValueError as error:
        raise UserError(f"{what} {path}: {error}; mend it") from error


def parse_json(text: bytes) -> Any:
    """Parse JSON, refusing what only some readers take, or later steps could not write again.

    Args:
        text: UTF-8, with or without a byte order mark.

    Raises:
        ValueError: If it is not UTF-8 or no JSON, an object has a name twice, a text holds half of a surrogate pair, or
            values are nested more than `DEEPEST` levels deep.
    """
    try:
        value = json.loads(text.decode("utf-8-sig"), object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not valid JSON ({error.msg} at character {error.pos + 1})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 ({error.reason} at byte {error.start + 1})") from error
    except RecursionError:
        value = None
        depth = _DEEPEST + 1
    else:
        depth = _depth(value) if text.count(b"[") + text.count(b"{") > _DEEPEST else 0
    if depth > _DEEPEST:
        raise ValueError(f"is nested more than {_DEEPEST} levels deep")
    if b"\\ud" in text.lower():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"holds half of a surrogate pair, {error.object[error.start]!r}, no character") from error
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"has the field {repeated!r} twice")
    return values


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            child
            for each in level
            if isinstance(each, dict | list)
            for child in (each.values() if isinstance(each, dict) else each)
        ]
    return depth
