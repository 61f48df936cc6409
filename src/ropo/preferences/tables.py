"""Tables: records out of Arrow's, without the nulls it adds, and checked pairs into one that adds none.

A column of Arrow gives every record the fields of all others: `{"city": "Oslo"}` beside `{"x": 1}` is read back as
`{"city": "Oslo", "x": null}`, which a chat template prints. Out of a table, null fields are therefore left out, at
every level; into ours, messages of unlike fields go as JSON texts.
"""

from __future__ import annotations

__all__ = ()

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow
from datasets import Dataset, DatasetInfo, Features, Json, List, Value
from datasets.table import InMemoryTable

from ropo.core.json_lines import parse_json

_Reader = Callable[[Any], Any]

_WRITE = json.JSONEncoder(ensure_ascii=False).encode


class ExactJson(Json):
    """Keep a value as JSON, as `datasets.Json` does, but exactly.

    That one goes through a fast parser: 2.517749 may come back as 2.5177490000000002, and 2**64 not at all. Saved, a
    column of ours is one of `datasets.Json`, which everybody can read.
    """

    def encode_example(self, example_data: Any) -> str | None:
        """Return the JSON of a value; a text is JSON already, since `datasets` may encode twice."""
        return example_data if isinstance(example_data, str | None) else _WRITE(example_data)

    def decode_example(self, example_data: Any, token_per_repo_id: Any = None) -> Any:
        """Return the value."""
        return None if example_data is None else json.loads(example_data)


def records_of(batches: Iterable[Any]) -> Iterator[dict[str, Any]]:
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


def as_dataset(rows: Sequence[dict[str, Any]]) -> Dataset:
    """Return records as a data set that gives each of them back as it was.

    Args:
        rows: Records whose values under one name are all texts (or None), all lists of objects, or all objects. A
            record that lacks an object gets an empty one, because TRL unpacks it.

    Cost: one JSON text a message where messages do not all have the same fields, all of them texts.
    """
    columns = {
        name: _column([row.get(name) for row in rows]) for name in dict.fromkeys(name for row in rows for name in row)
    }
    table = pyarrow.table({name: array for name, (array, _) in columns.items()})
    features = Features({name: feature for name, (_, feature) in columns.items()})
    return Dataset(InMemoryTable(table), info=DatasetInfo(features=features))


def _column(values: Sequence[Any]) -> tuple[Any, Any]:
    """Return a column's values as Arrow has them, and the feature that reads them back."""
    kind = next(type(value) for value in values if value is not None)
    if kind is dict:
        texts = [_WRITE(value or {}) for value in values]
        return pyarrow.array(texts, pyarrow.string()).cast(pyarrow.json_()), ExactJson()
    if kind is not list:
        return pyarrow.array(values, pyarrow.string()), Value("string")
    if names := _fields_of_texts(values):
        message = pyarrow.struct([(name, pyarrow.string()) for name in names])
        return pyarrow.array(values, pyarrow.list_(message)), List({name: Value("string") for name in names})
    lists = pyarrow.array([[_WRITE(each) for each in value] for value in values], pyarrow.list_(pyarrow.string()))
    return lists.cast(pyarrow.list_(pyarrow.json_())), List(ExactJson())


def _fields_of_texts(values: Sequence[list[dict[str, Any]]]) -> tuple[str, ...]:
    """Return the fields of all messages if they are the same and texts; nothing otherwise."""
    names = tuple(values[0][0])
    alike = all(
        tuple(each) == names and all(type(text) is str for text in each.values()) for value in values for each in value
    )
    return names if alike else ()


def _reader(kind: Any) -> _Reader | None:
    """Return what makes a column's values ours; None where they are already."""
    if isinstance(kind, pyarrow.JsonType):
        return lambda text: None if text is None else parse_json(text.encode())
    if pyarrow.types.is_struct(kind):
        readers = {field.name: _reader(field.type) or _as_it_is for field in kind}
        return lambda value: (
            None if value is None else {name: readers[name](each) for name, each in value.items() if each is not None}
        )
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_fixed_size_list(kind):
        inner = _reader(kind.value_type)
        return inner and (lambda value: None if value is None else [inner(each) for each in value])
    return None


def _as_it_is(value: Any) -> Any:
    return value
