"""Formats of preference pairs (`table.py`), and of prompts: recognised by their columns, and read as TRL's records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ropo.preferences.formats import parts
from ropo.preferences.formats.columns import BESIDE, MEDIA, QUESTIONS, beside, says_nothing
from ropo.preferences.formats.table import (
    FORMATS,
    Format,
    ambiguous,
    as_conversation,
    format_of,
    labels_of,
    of_media,
    renaming,
    unread,
)
from ropo.preferences.formats.turns import (
    ROLES,
    before,
    is_open,
    is_written_out,
    kind,
    open_dialogue_as_messages,
    refuse_unclear,
    user,
)

__all__ = ["FORMATS", "ROLES", "Format", "as_conversation", "format_of", "is_written_out", "kind", "labels_of"]
__all__ += ["prompt_columns", "prompt_of", "refuse_unclear", "text_of"]

# Columns of a prompt's record that are content, not labels or answers.
_CONTENT = ("input", "context", "contexts", "passage", "article", "document", "documents", "passages", "background")


def prompt_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a model is to be given: `prompt`, mostly messages, and perhaps `tools` and `chat_template_kwargs`.

    Columns that cannot belong to the prompt, such as answers and labels, are left alone.

    Raises:
        ValueError: If there is no question or several, it ends with the assistant's turn, or a column beside it would
            be content that nobody reads; with the columns.
    """
    present = [name for name, value in record.items() if not says_nothing(value)]
    found = [name for name in QUESTIONS if name in present]
    if media := next((name for name in present if name in MEDIA), None):
        raise ValueError(of_media(media, record))
    if found == ["prompt", "messages"]:
        parts.check_copy(record, {"prompt": _as_turns(parts.QUESTION_READERS["prompt"](record))})
    elif len(found) > 1:
        raise ValueError(ambiguous(found[0], found[1]))
    if not found:
        empty = next((name for name in ("prompt", *QUESTIONS) if name in record), None)
        missing = f"{empty} is empty" if empty else f"has no field 'prompt'{renaming('prompt', record)}"
        raise ValueError(f"{missing}; a prompt is one of {', '.join(QUESTIONS)}")
    idle = next((name for name in present if name in _CONTENT and name not in beside(found)), None)
    if idle is not None:
        raise ValueError(unread(record, idle, f"beside {found[0]!r}"))
    question = parts.QUESTION_READERS[found[0]](record)
    if is_open(question):
        parts.refuse_beside(record)
        return {"prompt": open_dialogue_as_messages(question)}
    question = _as_turns(question)
    if isinstance(question, list):
        question = before(record, question)
    return {"prompt": question, **parts.options_of(record)}


def prompt_columns(record: Mapping[str, Any]) -> list[str]:
    """Return the columns that make a record's prompt."""
    found = [name for name, value in record.items() if not says_nothing(value)]
    return [name for name in (*QUESTIONS, *beside(found)) if name in found]


def text_of(record: Mapping[str, Any]) -> str | None:
    """Return a prompt that is one text, with nothing beside it that belongs to a conversation; None otherwise."""
    columns = prompt_columns(record)
    if not columns or any(name in BESIDE for name in columns):
        return None
    read = parts.QUESTION_READERS.get(columns[0])
    question = read(record) if read else None
    return question if isinstance(question, str) else None


def _as_turns(question: Any) -> Any:
    return [user(question)] if isinstance(question, str) else question
