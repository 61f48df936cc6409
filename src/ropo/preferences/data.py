"""Gather the preference pairs of a source, each record read in the format that it is of, and checked."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow
from datasets import Dataset, DatasetInfo, Features, Json, List, Value
from datasets.table import InMemoryTable

from ropo.core.errors import UserError
from ropo.preferences.formats import as_conversation, format_of, labels_of
from ropo.preferences.read import read_records
from ropo.preferences.records import ANSWERS, Pair, to_pair

__all__ = [
    "ANSWERS",
    "Pair",
    "PreferenceData",
    "as_conversation",
    "count_shared_prompts",
    "load_preferences",
]


_WRITE = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(frozen=True)
class PreferenceData:
    """The pairs of one source, and what was left out of them.

    Attributes:
        source: The name it was loaded by.
        pairs: Columns prompt, chosen, rejected, and `where` (the place of the record).
        repeated: Of each record dropped because the same pair stands further up, how many pairs stand before it.
        tied: The same of each record dropped because chosen and rejected are equal.
        sha256: Hash of the pairs that were kept, in their order, whatever format they were stored in.
        reading: What the records were recognised as, and which columns were left out as labels, in a line.
        places: Of the records whose plain prompt became a user turn.
    """

    source: str
    pairs: Dataset
    repeated: tuple[int, ...]
    tied: tuple[int, ...]
    sha256: str
    reading: str
    places: frozenset[str]

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.pairs)

    @property
    def wrapped(self) -> int:
        """Return how many of the pairs have a plain prompt that became a user turn."""
        return sum(where in self.places for where in self.pairs["where"])

    @property
    def duplicates(self) -> int:
        """Return how many records were dropped because the same pair stands further up."""
        return len(self.repeated)

    @property
    def ties(self) -> int:
        """Return how many records were dropped because chosen and rejected are equal."""
        return len(self.tied)

    def dropped_before(self, pairs: int) -> dict[str, int]:
        """Return how many duplicates and ties stand before the last of the first so many pairs; of all pairs, all."""
        whole = pairs >= len(self)
        dropped = {"duplicates": self.repeated, "ties": self.tied}
        return {name: sum(whole or each < pairs for each in places) for name, places in dropped.items()}


def load_preferences(source: str, split: str = "train", wrap_prompts: bool = True) -> PreferenceData:
    """Load and check preference pairs.

    Args:
        source: File, folder or hub id, as in `ropo.preferences.read.read_records`; records of any format of
            `ropo.preferences.formats`.
        split: Split of a folder or of a hub dataset.
        wrap_prompts: Whether a plain `prompt` becomes a user turn and its answers assistant turns, for models that
            were trained with a chat template. Texts without a prompt field stay plain: they hold their own markup. Only
            HH's, whose markup is known, become turns.

    Returns:
        The pairs without duplicates and ties, in order.

    Raises:
        UserError: For the first record with a missing, empty or non-text field, or a column that would be dropped, with
            its file and line; and if there is no record, or none whose two answers differ.
    """
    records = ((each.where, each.fields) for each in read_records(source, split))
    return collect(source, records, wrap_prompts)


def collect(source: str, records: Iterable[tuple[str, dict[str, Any]]], wrap_prompts: bool) -> PreferenceData:
    """Check records, each behind its place, one by one and gather the pairs worth training on."""
    seen: dict[str, None] = {}  # a set that keeps its order
    rows: list[Pair] = []
    formats: Counter[str] = Counter()
    labels: dict[str, None] = {}  # the same
    places: set[str] = set()
    repeated: list[int] = []
    tied: list[int] = []
    for where, record in records:
        try:
            found = format_of(record)
            pair = to_pair(found.read(record))
            if wrap_prompts and isinstance(pair["prompt"], str):
                found.check_plain(pair, record)
        except ValueError as error:
            raise UserError(f"data {where}: {error}") from error
        formats[found.described()] += 1
        labels |= dict.fromkeys(labels_of(record, found))
        if pair["chosen"] == pair["rejected"]:
            tied.append(len(rows))
            continue
        if wrap_prompts and isinstance(pair["prompt"], str) and found.wrap is not None:
            pair = found.wrap(pair)
            places.add(where)
        key = _identity(where, pair)
        if key in seen:
            repeated.append(len(rows))
            continue
        seen[key] = None
        rows.append({**pair, "where": where})
    read = formats.total()
    if not read:
        raise UserError(f"data {source}: holds no record; it needs one preference pair per line")
    if not rows:
        raise UserError(f"data {source}: chosen equals rejected in all {read} records; nothing can be learnt from them")
    _check_one_kind(rows)
    sha256 = hashlib.sha256("\n".join(seen).encode()).hexdigest()
    dropped = tuple(repeated), tuple(tied)
    return PreferenceData(source, as_dataset(rows), *dropped, sha256, _reading(formats, labels), frozenset(places))


def count_shared_prompts(data: PreferenceData, held_out: PreferenceData) -> int:
    """Return how many held-out pairs have a prompt that occurs in `data` too."""
    known = {json.dumps(prompt) for prompt in data.pairs["prompt"]}
    return sum(json.dumps(prompt) in known for prompt in held_out.pairs["prompt"])


def _reading(formats: Counter[str], labels: Iterable[str]) -> str:
    """Say in a line what was recognised."""
    several = len(formats) > 1
    named = ", ".join(f"{name}{f' in {count} records' if several else ''}" for name, count in formats.items())
    left_out = ", ".join(repr(name) for name in labels)
    return f"read as {named}" + (f"; not read, as labels: {left_out}" if left_out else "")


def _identity(where: str, pair: Pair) -> str:
    """Return a text that is the same for equal pairs."""
    try:
        return json.dumps(pair, sort_keys=True)
    except TypeError as error:  # dates and bytes, which Parquet has
        raise UserError(f"data {where}: {error}; write messages and tools as text, numbers and lists") from error


def _check_one_kind(rows: list[Pair]) -> None:
    """Refuse a mixture of plain and conversational pairs, which no dataset column can hold."""
    kind = type(rows[0]["prompt"])
    for row in rows:
        if type(row["prompt"]) is not kind:
            raise UserError(
                f"data {row['where']}: is {'text' if kind is list else 'messages'} where {rows[0]['where']} is "
                f"{'messages' if kind is list else 'text'}; use one format throughout"
            )


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
