"""Local questions as lm-eval tasks. A file holds one kind of record:

{"query": "Question: ...", "choices": ["a", "b"], "gold": 0}           which choice is likeliest after the query
{"context_options": ["He", "She"], "continuation": "left.", "gold": 1} after which context the continuation is
{"context": "She closed the", "continuation": "door"}                  is the continuation the likeliest one
"""

from __future__ import annotations

__all__ = ()

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from ropo.core.errors import UserError
from ropo.core.json_lines import read_json_lines

_Record = dict[str, Any]
PREFIX = "local_"  # keeps a file's name apart from lm-eval's tasks
_MEAN: dict[str, Any] = {"aggregation": "mean", "higher_is_better": True}


@dataclass(frozen=True)
class LocalTask:
    """One file of questions: its name without folder and suffix, its records, and its lm-eval configuration."""

    name: str
    records: list[_Record]
    config: dict[str, Any]

    @property
    def sha256(self) -> str:
        """A hash of the records."""
        return hashlib.sha256(json.dumps(self.records, sort_keys=True).encode()).hexdigest()


def read_task(file: Path) -> LocalTask:
    """Read a `.jsonl` file of questions.

    Multiple choice has the wording of lm-eval's own tasks: a query with `Question:` is followed by a line `Answer:`
    as in ARC and PIQA, another query stands bare as in OpenBookQA. Choices follow after a space.

    Raises:
        UserError: If the file is missing or empty, or a record is malformed or of another kind; names the line.
    """
    records: list[_Record] = []
    kinds: list[str] = []
    for line, record in read_json_lines("task", file):
        where = f"task {file}:{line}"
        kinds.append(_kind(record, where))
        if kinds[-1] != kinds[0]:
            raise UserError(f"{where}: is of kind {kinds[-1]}, the first record {kinds[0]}; split the file")
        records.append(record)
    config = {"task": PREFIX + file.stem, "num_fewshot": 0, "test_split": "test", **_CONFIGS[kinds[0]]}
    return LocalTask(file.stem, records, {**config, "custom_dataset": _dataset_maker(records)})


def query_text(record: _Record) -> str:
    """Return the text that the choices follow."""
    query: str = record["query"].rstrip()
    return f"{query}\nAnswer:" if query.startswith("Question:") else query


def _gold_choice(record: _Record) -> int:
    """Return the number of the right choice, or of the right context."""
    gold: int = record["gold"]
    return gold


def spaced_continuation(record: _Record) -> str:
    """Return the word to be guessed with the space before it."""
    return " " + str(record["continuation"]).strip()


_CONFIGS: dict[str, dict[str, Any]] = {
    "multiple choice": {
        "output_type": "multiple_choice",
        "doc_to_text": query_text,
        "doc_to_target": _gold_choice,
        "doc_to_choice": lambda record: record["choices"],
        "metric_list": [{"metric": "acc", **_MEAN}, {"metric": "acc_norm", **_MEAN}],
    },
    "context choice": {  # as lm-eval's winogrande: the number of the right context stands in the place of the text
        "output_type": "multiple_choice",
        "doc_to_text": _gold_choice,
        "doc_to_target": lambda record: record["continuation"],
        "doc_to_choice": lambda record: record["context_options"],
        "metric_list": [{"metric": "acc", **_MEAN}],
    },
    "last word": {  # as lm-eval's lambada
        "output_type": "loglikelihood",
        "doc_to_text": lambda record: record["context"].rstrip(),
        "doc_to_target": spaced_continuation,
        "target_delimiter": "",
        "metric_list": [
            {"metric": "acc", **_MEAN},
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
        ],
    },
}


def _dataset_maker(records: Sequence[_Record]) -> Callable[..., Any]:
    def make(**_: Any) -> Any:
        return DatasetDict(test=Dataset.from_list(list(records)))

    return make


def _kind(record: _Record, where: str) -> str:
    """Return the kind of a record, refusing one that is malformed."""
    if "query" in record:
        _require_text(record, "query", where)
        _require_choices(record, "choices", where)
        return "multiple choice"
    if "context_options" in record:
        _require_text(record, "continuation", where)
        _require_choices(record, "context_options", where)
        return "context choice"
    if "context" in record:
        _require_text(record, "context", where)
        _require_text(record, "continuation", where)
        return "last word"
    raise UserError(
        f"{where}: needs query, choices and gold; context_options, continuation and gold; or context and continuation; "
        f"got {', '.join(map(str, record)) or 'nothing'}; mend the record"
    )


def _require_text(record: _Record, field: str, where: str) -> None:
    if not isinstance(record.get(field), str) or not record[field].strip():
        raise UserError(f"{where}: {field} must be a non-empty text, got {json.dumps(record.get(field))[:60]}; mend it")


def _require_choices(record: _Record, field: str, where: str) -> None:
    choices, gold = record.get(field), record.get("gold")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c.strip() for c in choices):
        raise UserError(
            f"{where}: {field} must be at least two non-empty texts, got {json.dumps(choices)[:60]}; mend it"
        )
    if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < len(choices):
        raise UserError(f"{where}: gold must be a whole number from 0 to {len(choices) - 1}, got {json.dumps(gold)}")
