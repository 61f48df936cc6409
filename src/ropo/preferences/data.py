"""Turn raw records into preference pairs, refusing every record that could only train on a mistake.

TRL's formats are read: a prompt with two answers, as plain text or as lists of messages, and two whole texts or
conversations whose common beginning is the prompt. A pair comes out as plain text or as messages:

    {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"}
    {"prompt": [{"role": "user", "content": "2 + 2 = ?"}],
     "chosen": [{"role": "assistant", "content": "4"}], "rejected": [{"role": "assistant", "content": "5"}]}
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from datasets import Dataset
from pyarrow import ArrowException
from trl.data_utils import extract_prompt

from ropo.core.errors import UserError
from ropo.core.json_lines import parse_json
from ropo.preferences.records import Record, read_records

ANSWERS = ("chosen", "rejected")
OWN_OPTIONS = ("conversation", "tools", "add_generation_prompt", "continue_final_message", "tokenize", "return_dict")
ROLES = ("system", "user", "assistant", "tool")

UNFIT = (ArrowException, TypeError, OverflowError)  # what a table says to values of several types

Text = str | list[dict[str, Any]]  # plain, or messages
Pair = dict[str, Any]


@dataclass(frozen=True)
class PreferenceData:
    """Hold the pairs of one source, and what was left out of them.

    Attributes:
        source: The name it was loaded by.
        pairs: Columns prompt, chosen, rejected, and `where` (the place of the record).
        duplicates: Number of records dropped because the same pair stands further up.
        ties: Number of records dropped because chosen and rejected are equal.
        wrapped: Number of plain prompts that became a user turn.
        sha256: Hash of the pairs that were kept, whatever format they were stored in.
    """

    source: str
    pairs: Dataset
    duplicates: int
    ties: int
    wrapped: int
    sha256: str

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.pairs)


def load_preferences(source: str, split: str = "train", wrap_prompts: bool = True) -> PreferenceData:
    """Load and check preference pairs.

    Args:
        source: File, folder or hub id, as in `ropo.preferences.records.read_records`.
        split: Split of a folder or of a hub dataset.
        wrap_prompts: Whether a plain `prompt` becomes a user turn and its answers assistant turns, for models that
            were trained with a chat template. Texts without a `prompt` field stay plain: they hold their own markup.

    Returns:
        The pairs without duplicates and ties, in order.

    Raises:
        UserError: For the first record with a missing, empty or non-text field, with its file and line; and if there
            is no record, or none whose two answers differ.
    """
    return collect(source, read_records(source, split), wrap_prompts)


def collect(source: str, records: Iterable[Record], wrap_prompts: bool) -> PreferenceData:
    """Check records one by one and gather the pairs worth training on."""
    seen: set[str] = set()
    rows: list[Pair] = []
    read = ties = wrapped = 0
    for where, record in records:
        read += 1
        check_record(where, record)
        if record["chosen"] == record["rejected"]:
            ties += 1
            continue
        pair = to_pair(where, record)
        if wrap_prompts and isinstance(pair["prompt"], str) and "prompt" in record:
            pair, wrapped = as_conversation(pair), wrapped + 1
        key = _identity(where, pair)
        if key not in seen:
            seen.add(key)
            rows.append({**pair, "where": where})
    if not read:
        raise UserError(f"data {source}: holds no record; it needs one preference pair a line")
    if not rows:
        raise UserError(f"data {source}: chosen equals rejected in all {read} records; nothing can be learnt from them")
    _check_one_kind(rows)
    _check_same_options(rows)
    sha256 = hashlib.sha256("\n".join(sorted(seen)).encode()).hexdigest()
    return PreferenceData(source, _as_table(rows), read - ties - len(rows), ties, wrapped, sha256)


def check_record(where: str, record: dict[str, Any]) -> None:
    """Raise `UserError` unless the record has two answers, and its fields are non-empty texts."""
    for name in ANSWERS:
        if name not in record:
            near = get_close_matches(name, record, n=1)
            mend = f"rename {near[0]!r}" if near else f"its fields are {', '.join(record)[:80] or 'none'}"
            raise UserError(f"data {where}: has no field {name!r}; {mend}")
    for name in ("prompt", *ANSWERS):
        if name in record:
            _check_text(where, name, record[name])
    _check_passed_on(where, record)


def to_pair(where: str, record: dict[str, Any]) -> Pair:
    """Return prompt, chosen and rejected of one kind, whichever way the record gives the prompt."""
    prompt, chosen, rejected = record.get("prompt"), record["chosen"], record["rejected"]
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise UserError(f"data {where}: one of chosen and rejected is text, the other messages; make them alike")
    if isinstance(prompt, list) and isinstance(chosen, str):
        raise UserError(f"data {where}: prompt is messages but the answers are text; make them alike")
    if isinstance(chosen, list) and (prompt is None or chosen[0]["role"] != "assistant"):
        if isinstance(prompt, list):
            raise UserError(f"data {where}: chosen must start with the assistant's turn; it repeats the prompt")
        prompt, chosen, rejected = _split_conversations(where, chosen, rejected)
    elif prompt is None:
        prompt, chosen, rejected = _split_texts(where, chosen, rejected)
    elif isinstance(prompt, str) and isinstance(chosen, list):
        prompt = [{"role": "user", "content": prompt}]
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        _check_answer(where, name, answer)
    pair = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    return pair | _passed_on(record)


def template_options(pair: Pair) -> dict[str, Any]:
    """Return what a pair gives the chat template beside its messages: its tools, and options of the template."""
    tools = pair.get("tools")
    return {"tools": json.loads(tools) if isinstance(tools, str) else tools, **(pair.get("chat_template_kwargs") or {})}


def as_conversation(pair: Pair) -> Pair:
    """Make a plain prompt a user turn, and its answers assistant turns."""
    turns = {name: [{"role": "assistant", "content": pair[name]}] for name in ANSWERS}
    return {**pair, "prompt": [{"role": "user", "content": pair["prompt"]}], **turns}


def count_shared_prompts(data: PreferenceData, held_out: PreferenceData) -> int:
    """Return how many held-out pairs have a prompt that occurs in `data` too."""
    known = {json.dumps(prompt) for prompt in data.pairs["prompt"]}
    return sum(json.dumps(prompt) in known for prompt in held_out.pairs["prompt"])


def _as_table(rows: list[Pair]) -> Dataset:
    try:
        return Dataset.from_list(rows)
    except UNFIT as error:
        odd = bisect_left(range(len(rows)), True, key=lambda last: not _fit(rows[: last + 1]))
        raise UserError(
            f"data {rows[odd]['where']}: does not fit in a table with the records before it ({error}); give each field "
            "of messages and tools one type throughout"
        ) from error


def _fit(rows: list[Pair]) -> bool:
    try:
        Dataset.from_list(rows)
    except UNFIT:
        return False
    return True


def _identity(where: str, pair: Pair) -> str:
    """Return a text that is the same for equal pairs."""
    try:
        return json.dumps(pair, sort_keys=True)
    except TypeError as error:  # dates and bytes, which Parquet has
        raise UserError(f"data {where}: {error}; write messages and tools as text, numbers and lists") from error


def _passed_on(record: dict[str, Any]) -> dict[str, Any]:
    """Return what TRL hands to the chat template; tools as JSON, since a table would give each every other's fields."""
    tools = record.get("tools")
    passed = {
        "tools": tools if isinstance(tools, str | None) else json.dumps(tools),
        "chat_template_kwargs": record.get("chat_template_kwargs"),
    }
    return {name: value for name, value in passed.items() if value}


def _check_passed_on(where: str, record: dict[str, Any]) -> None:
    """Check what the chat template gets beside the messages."""
    tools, options = record.get("tools"), record.get("chat_template_kwargs")
    if isinstance(tools, str):
        try:
            tools = parse_json(tools.encode())
        except ValueError as error:
            raise UserError(f"data {where}: tools {error}; write a list, or its JSON") from error
    if tools is not None and not isinstance(tools, list):
        raise UserError(f"data {where}: tools must be a list, not {_kind(tools)}")
    if options is not None and not isinstance(options, dict):
        raise UserError(f"data {where}: chat_template_kwargs must be an object, not {_kind(options)}")
    for name in options or {}:
        if name in OWN_OPTIONS:
            raise UserError(f"data {where}: chat_template_kwargs must not set {name!r}, which ropo sets; remove it")


def _check_same_options(rows: list[Pair]) -> None:
    """Refuse records with template options beside others without: a table would give these options of None."""
    names = [sorted(row.get("chat_template_kwargs") or ()) for row in rows]
    for row, own in zip(rows, names, strict=True):
        if own != names[0]:
            raise UserError(
                f"data {row['where']}: has the chat_template_kwargs {own}, {rows[0]['where']} has {names[0]}; "
                "give every record the same names"
            )


def _check_text(where: str, name: str, value: Any) -> None:
    if isinstance(value, str):
        if not value.strip():
            raise UserError(f"data {where}: {name} is empty; fill it in or remove the record")
        return
    if not isinstance(value, list):
        raise UserError(f"data {where}: {name} must be text or a list of messages, not {_kind(value)}")
    if not value:
        raise UserError(f"data {where}: {name} is an empty list; fill it in or remove the record")
    for number, message in enumerate(value, start=1):
        _check_message(f"{where}: {name}, message {number}", message)


def _check_message(where: str, message: Any) -> None:
    if not isinstance(message, dict) or "role" not in message:
        raise UserError(f"data {where}: must be an object with role and content, not {_kind(message)}")
    if message["role"] not in ROLES:
        raise UserError(f"data {where}: the role must be one of {', '.join(ROLES)}, not {_kind(message['role'])}")
    content = message.get("content")
    if message.get("tool_calls") and content is None:
        return
    if not isinstance(content, str):
        raise UserError(f"data {where}: content must be text, not {_kind(content)}")
    if not content.strip() and message["role"] != "system":
        raise UserError(f"data {where}: content is empty; fill it in or remove the record")


def _split_texts(where: str, chosen: str, rejected: str) -> tuple[str, str, str]:
    """Split two plain texts after the beginning that they share."""
    parts: dict[str, Any] = extract_prompt({"chosen": chosen, "rejected": rejected})
    if not parts["prompt"].strip():
        raise UserError(f"data {where}: chosen and rejected share no beginning to take as prompt; add a prompt field")
    return parts["prompt"], parts["chosen"], parts["rejected"]


def _split_conversations(where: str, chosen: list, rejected: list) -> tuple[list, list, list]:
    """Split two conversations after the turns that they share."""
    shared = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), None)
    if shared is None:
        raise UserError(f"data {where}: one of chosen and rejected is the beginning of the other; give each its answer")
    if not shared:
        raise UserError(f"data {where}: chosen and rejected share no turn, so there is no prompt; add a prompt field")
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _check_answer(where: str, name: str, answer: Text) -> None:
    if not answer or (isinstance(answer, str) and not answer.strip()):
        raise UserError(f"data {where}: {name} is empty after the shared prompt; give it an answer")
    if isinstance(answer, list) and (answer[0]["role"] != "assistant" or answer[-1]["role"] != "assistant"):
        raise UserError(f"data {where}: {name} must start and end with the assistant's turn after the prompt")


def _check_one_kind(rows: list[Pair]) -> None:
    """Refuse a mixture of plain and conversational pairs, which no dataset column can hold."""
    kind = type(rows[0]["prompt"])
    for row in rows:
        if type(row["prompt"]) is not kind:
            raise UserError(
                f"data {row['where']}: is {'text' if kind is list else 'messages'} where {rows[0]['where']} is "
                f"{'messages' if kind is list else 'text'}; use one format throughout"
            )


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"{value!r:.40} ({type(value).__name__})"
