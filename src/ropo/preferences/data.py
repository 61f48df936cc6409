"""Gather the preference pairs of a source, each record read in the format that it is of, and checked."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from ropo.core.errors import UserError
from ropo.preferences.formats import as_conversation, format_of, labels_of
from ropo.preferences.read import read_records
from ropo.preferences.records import ANSWERS, Pair, to_pair
from ropo.preferences.tables import as_dataset

__all__ = [
    "ANSWERS",
    "Pair",
    "PreferenceData",
    "as_conversation",
    "count_shared_prompts",
    "load_preferences",
]


@dataclass(frozen=True)
class PreferenceData:
    """The pairs of one source, and what was left out of them.

    Attributes:
        source: The name it was loaded by.
        pairs: Columns prompt, chosen, rejected, and `where` (the place of the record).
        repeated: Of each record dropped because the same pair stands further up, how many pairs stand before it.
        tied: The same of each record dropped because chosen and rejected are equal.
        sha256: Hash of the pairs that were kept, whatever format they were stored in.
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
    seen: set[str] = set()
    rows: list[Pair] = []
    formats: Counter[str] = Counter()
    labels: dict[str, None] = {}  # a set that keeps its order
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
        seen.add(key)
        rows.append({**pair, "where": where})
    read = formats.total()
    if not read:
        raise UserError(f"data {source}: holds no record; it needs one preference pair per line")
    if not rows:
        raise UserError(f"data {source}: chosen equals rejected in all {read} records; nothing can be learnt from them")
    _check_one_kind(rows)
    sha256 = hashlib.sha256("\n".join(sorted(seen)).encode()).hexdigest()
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
