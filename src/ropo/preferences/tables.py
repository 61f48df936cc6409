"""Tables: records out of Arrow's, without the nulls it adds, and checked pairs into one that adds none.

A column of Arrow gives every record the fields of all others: `{"city": "Oslo"}` beside `{"x": 1}` is read back as
`{"city": "Oslo", "x": null}`, which a chat template prints. Out of a table, null fields are therefore left out, at
every level; into ours, messages go as JSON texts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow
from datasets import Dataset, DatasetInfo, Features, Json, List, Value
from datasets.table import InMemoryTable

from ropo.core.json_lines import parse_json

Reader = Callable[[Any], Any]


class ExactJson(Json):
    """Keep a value as JSON, as `datasets.Json` does, but exactly.

    That one goes through a fast parser: 59.912731 may come back as 59.912730999999997, and 2**64 not at all. Saved, a
    column of ours is one of `datasets.Json`, which everybody can read.
    """

    def encode_example(self, example_data: Any) -> str | None:
        """Return the JSON of a value; a text is JSON already, since `datasets` may encode twice."""
        return example_data if isinstance(example_data, str | None) else json.dumps(example_data)

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
    """Return records as a data set, whose texts are texts, and whose lists of messages and objects are exact.

    Args:
        rows: Records whose values under one name are all texts (or None), all lists of objects, or all objects. A
            record that lacks an object gets an empty one, because TRL unpacks it.

    Cost: one JSON text a message.
    """
    columns: dict[str, Any] = {}
    features: dict[str, Any] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        kind = next(type(value) for value in values if value is not None)
        if kind is list:
            texts = [[json.dumps(each, ensure_ascii=False) for each in value or ()] for value in values]
            columns[name] = pyarrow.array(texts, pyarrow.list_(pyarrow.string())).cast(pyarrow.list_(pyarrow.json_()))
            features[name] = List(ExactJson())
        elif kind is dict:
            objects = [json.dumps(value or {}, ensure_ascii=False) for value in values]
            columns[name] = pyarrow.array(objects, pyarrow.string()).cast(pyarrow.json_())
            features[name] = ExactJson()
        else:
            columns[name] = pyarrow.array(values, pyarrow.string())
            features[name] = Value("string")
    return Dataset(InMemoryTable(pyarrow.table(columns)), info=DatasetInfo(features=Features(features)))


def _reader(kind: Any) -> Reader | None:
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
