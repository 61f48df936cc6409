"""Formats of preference pairs and prompts: recognised by their columns, and read as TRL's records.

A record is of the format whose columns are there and which leaves no other column unread, but for well-known labels
such as ids and scores. Where there is none, the record is refused, with the column that is to blame.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from ropo.preferences.formats import parts
from ropo.preferences.formats.columns import BESIDE, MEDIA, QUESTIONS, is_label, says_nothing
from ropo.preferences.formats.dialogue import is_open, open_dialogue_as_messages, refuse_unclear
from ropo.preferences.formats.table import FORMATS, PROMPTS, Format, as_conversation
from ropo.preferences.formats.turns import ROLES, before, is_written_out, kind, user

__all__ = ["FORMATS", "ROLES", "Format", "as_conversation", "format_of", "is_written_out", "kind", "labels_of"]
__all__ += ["prompt_columns", "prompt_of", "refuse_unclear", "text_of"]

_ALWAYS = ("prompt", "chosen", "rejected")  # present where they are named: left empty, they are a mistake


def format_of(record: Mapping[str, Any]) -> Format:
    """Return the format of a record of a preference pair.

    Raises:
        ValueError: If it is of none, or of several; with the columns that are to blame.
    """
    present = tuple([name for name, value in record.items() if name in _ALWAYS or not says_nothing(value)])
    for each in _possible(present):
        if _labels_only(record, each, present) and each.fits(record):
            return each
    raise ValueError(_blame(record, present))


def labels_of(record: Mapping[str, Any], of: Format) -> list[str]:
    """Return the columns that say something and are left out, as labels."""
    return [name for name, value in record.items() if not of.reads(name) and not says_nothing(value)]


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
        raise ValueError(_of_media(media, record))
    if found == ["prompt", "messages"]:
        parts.check_copy(record, {"prompt": _as_turns(PROMPTS["prompt"](record))})
    elif len(found) > 1:
        raise ValueError(_ambiguous(found[0], found[1]))
    if not found:
        empty = next((name for name in ("prompt", *QUESTIONS) if name in record), None)
        missing = f"{empty} is empty" if empty else f"has no field 'prompt'{_near('prompt', record)}"
        raise ValueError(f"{missing}; a prompt is one of {', '.join(QUESTIONS)}")
    unread = next(
        (name for name in present if name in _CONTENT and not (name == "input" and found == ["instruction"])), None
    )
    if unread is not None:
        raise ValueError(_unread(record, unread, f"beside {found[0]!r}"))
    question = PROMPTS[found[0]](record)
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
    beside = ("input", *BESIDE) if "instruction" in found else BESIDE
    return [name for name in (*QUESTIONS, *beside) if name in found]


def text_of(record: Mapping[str, Any]) -> str | None:
    """Return a prompt that is one text, with nothing beside it that belongs to a conversation; None otherwise."""
    columns = prompt_columns(record)
    if not columns or any(name in BESIDE for name in columns):
        return None
    question = PROMPTS[columns[0]](record) if columns[0] in PROMPTS else None
    return question if isinstance(question, str) else None


# Columns of a prompt's record that are content, not labels or answers.
_CONTENT = ("input", "context", "contexts", "passage", "article", "document", "documents", "passages", "background")


def _as_turns(question: Any) -> Any:
    return [user(question)] if isinstance(question, str) else question


@lru_cache(maxsize=1024)
def _possible(present: tuple[str, ...]) -> tuple[Format, ...]:
    """Return the formats whose columns are all there."""
    return tuple(each for each in FORMATS if set(each.needs) <= set(present))


def _labels_only(record: Mapping[str, Any], of: Format, present: Collection[str]) -> bool:
    return of.open or all(of.reads(name) or is_label(name, record[name]) for name in present)


def _blame(record: Mapping[str, Any], present: Collection[str]) -> str:
    """Say why a record is of no format."""
    if media := next((name for name in present if name in MEDIA), None):
        return _of_media(media, record)
    questions = [name for name in QUESTIONS if name in present]
    possible = _possible(tuple(present))
    if not possible:
        return _missing(record, questions)
    if len(questions) > 1:
        return _ambiguous(questions[0], questions[1])
    fitting = [
        each for each in possible if each.fits(record)
    ]  # at least one: formats of the same columns share all records
    nearest = max(fitting, key=lambda each: sum(map(each.reads, present)))
    unread = next(name for name in present if not nearest.reads(name) and not is_label(name, record[name]))
    return _unread(record, unread, f"in the format {nearest.described()}")


def _missing(record: Mapping[str, Any], questions: Collection[str]) -> str:
    for name in ("chosen", "rejected"):
        if name not in record:
            near = _near(name, record) or f"; its fields are {', '.join(record)[:80] or 'none'}"
            return f"has no field {name!r}{near}"
    raise AssertionError("chosen and rejected alone are a format")


def _near(name: str, record: Mapping[str, Any]) -> str:
    near = get_close_matches(name, record, n=1)
    return f"; rename {near[0]!r}" if near else ""


def _ambiguous(one: str, other: str) -> str:
    return f"has both {one!r} and {other!r}, and each could be the question; keep one"


def _unread(record: Mapping[str, Any], name: str, where: str) -> str:
    hint = "if it is the question, call it 'prompt'; " if not any(each in record for each in QUESTIONS) else ""
    return (
        f"the column {name!r} ({kind(record[name])}) would be read by nobody {where}; {hint}remove it, or call it "
        f"'meta_{name}' if it is no content"
    )


def _of_media(name: str, record: Mapping[str, Any]) -> str:
    return f"the column {name!r} holds {kind(record[name])}, but only text is trained on; leave such records out"
