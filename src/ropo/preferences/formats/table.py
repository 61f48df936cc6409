"""The formats of preference pairs: which columns each has, how they are read, and which one a record is of.

A record is of the format whose columns are there and which leaves no other column unread, but for well-known labels
such as ids and scores. Where there is none, the record is refused, with the column that is to blame.
"""

from __future__ import annotations

__all__ = ()

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from ropo.preferences.formats import parts
from ropo.preferences.formats.columns import MEDIA, QUESTIONS, beside, is_label, says_nothing
from ropo.preferences.formats.turns import (
    assistant,
    dialogue_as_messages,
    is_dialogue,
    is_open,
    kind,
    refuse_unclear,
    split_dialogues,
    user,
)

_Record = Mapping[str, Any]
_ALWAYS = ("prompt", "chosen", "rejected")  # present where they are named: left empty, they are a mistake


def as_conversation(pair: dict[str, Any]) -> dict[str, Any]:
    """Make a plain prompt a user turn, and its answers assistant turns."""
    return {
        **pair,
        "prompt": [user(pair["prompt"])],
        "chosen": [assistant(pair["chosen"])],
        "rejected": [assistant(pair["rejected"])],
    }


@dataclass(frozen=True)
class Format:
    """One format of preference pairs.

    Attributes:
        name: What people call it.
        needs: The columns that it must have, the question's first.
        question: Reads the question where the column's own reader does not.
        answers: Reads chosen and rejected.
        asks: Whether a column is the question; else the answers begin with it.
        fits: Tells it from another format with the same columns.
        wrap: Makes a plain pair a conversation; None where plain texts hold their own markup.
        copy: Whether it may have `messages` that repeat the rest.
        open: Whether all other columns are its own labels.
    """

    name: str
    needs: tuple[str, ...]
    question: Callable[[_Record], Any] | None = None
    answers: Callable[[_Record], tuple[Any, Any]] = parts.chosen_and_rejected
    asks: bool = True
    fits: Callable[[_Record], bool] = lambda record: True
    wrap: Callable[[dict[str, Any]], dict[str, Any]] | None = as_conversation
    copy: bool = False
    open: bool = False

    def reads(self, column: str) -> bool:
        """Tell whether the format reads a column."""
        return column in (*self.needs, *beside(self.needs)) or (self.copy and column == "messages")

    def read(self, record: _Record) -> dict[str, Any]:
        """Return TRL's record: `prompt`, `chosen`, `rejected`, and what the chat template gets beside them.

        Raises:
            ValueError: If a column is not of its type, or a text where none can be.
        """
        if self.asks:
            question = (self.question or parts.QUESTION_READERS[self.needs[0]])(record)
            pair = parts.with_question(record, question, *self.answers(record))
        else:
            pair = parts.without_question(record, *self.answers(record))
        if self.copy:
            parts.check_copy(record, pair)
        return pair

    def check_plain(self, pair: dict[str, Any], record: _Record) -> None:
        """Check that a pair of plain texts holds no markup that a chat template would take for a user's words."""
        if self.wrap is not dialogue_as_messages:
            refuse_unclear(pair["prompt"], whole="prompt" not in record)

    def described(self) -> str:
        """Return the format's name and columns."""
        return f"{self.name} ({', '.join(self.needs)})"


def _is_whole(record: _Record) -> bool:
    return parts.is_whole(record["chosen"])


def _repeats_its_prompt(record: _Record) -> bool:
    return isinstance(record["prompt"], str) and _is_whole(record)


def _continues_dialogue(record: _Record) -> bool:
    return is_open(record["prompt"]) and isinstance(record["chosen"], str) and isinstance(record["rejected"], str)


def _holds_dialogues(record: _Record) -> bool:
    return is_dialogue(record["chosen"]) and is_dialogue(record["rejected"])


def _dialogue_of(record: _Record) -> Any:
    parts.refuse_beside(record)
    return record["prompt"]


def _dialogue_before(record: _Record) -> str:
    parts.refuse_beside(record)
    return split_dialogues(record)[0]


def _dialogue_after(record: _Record) -> tuple[Any, Any]:
    return split_dialogues(record)[1:]


def _not(*others: Callable[[_Record], bool]) -> Callable[[_Record], bool]:
    return lambda record: not any(other(record) for other in others)


_PAIR = ("chosen", "rejected")
_RESPONSES = ("chosen_response", "rejected_response")

FORMATS = (
    Format("TRL", ("prompt", *_PAIR), copy=True, fits=_not(_repeats_its_prompt, _continues_dialogue)),
    Format("UltraFeedback binarized", ("prompt", *_PAIR), copy=True, fits=_repeats_its_prompt),
    Format("Anthropic HH", ("prompt", *_PAIR), _dialogue_of, fits=_continues_dialogue, wrap=dialogue_as_messages),
    Format("Anthropic HH", _PAIR, _dialogue_before, _dialogue_after, fits=_holds_dialogues, wrap=dialogue_as_messages),
    Format("TRL, prompt in the answers", _PAIR, asks=False, fits=_not(_holds_dialogues), wrap=None),
    Format("TRL, prompt in the answers", ("messages", *_PAIR), asks=False, fits=_is_whole, wrap=None, copy=True),
    Format("ropo pairs", ("prompt", *_PAIR, "scorer", "sampling"), open=True),
    Format("Argilla", ("prompt", *_RESPONSES), answers=parts.responses),
    Format("LLaMA-Factory ranking", ("instruction", *_PAIR)),
    Format("LLaMA-Factory ranking", ("instruction", "output"), answers=parts.list_of_two),
    Format("Argilla", ("instruction", *_RESPONSES), answers=parts.responses),
    Format("AlpacaFarm", ("instruction", "output_1", "output_2", "preference"), answers=parts.preferred_of_two),
    Format("ms-swift Alpaca", ("instruction", "output", "rejected_response"), answers=parts.response_and_rejected),
    Format("ms-swift query", ("query", "response", "rejected_response"), answers=parts.response_and_rejected),
    Format("ms-swift query", ("query", *_PAIR)),
    Format("Orca DPO", ("question", *_PAIR)),
    Format("ShareGPT ranking", ("conversations", *_PAIR), answers=parts.chosen_and_rejected_turns),
    Format("ShareGPT ranking", ("conversation", *_PAIR), answers=parts.chosen_and_rejected_turns),
    Format("messages ranking", ("messages", *_PAIR), answers=parts.chosen_and_rejected_turns, fits=_not(_is_whole)),
    *(
        Format("ms-swift", (turns, "rejected_response"), parts.earlier_turns_of, parts.last_turn_and_rejected)
        for turns in ("messages", "conversations", "conversation")
    ),
    Format("ms-swift", ("messages", "rejected_messages"), answers=parts.both_conversations, asks=False),
)


def format_of(record: _Record) -> Format:
    """Return the format of a record of a preference pair.

    Raises:
        ValueError: If it is of none, or of several; with the columns that are to blame.
    """
    present = tuple([name for name, value in record.items() if name in _ALWAYS or not says_nothing(value)])
    for each in _possible(present):
        if _labels_only(record, each, present) and each.fits(record):
            return each
    raise ValueError(_blame(record, present))


def labels_of(record: _Record, of: Format) -> list[str]:
    """Return the columns that say something and are left out, as labels."""
    return [name for name, value in record.items() if not of.reads(name) and not says_nothing(value)]


@lru_cache(maxsize=1024)
def _possible(present: tuple[str, ...]) -> tuple[Format, ...]:
    """Return the formats whose columns are all there."""
    return tuple(each for each in FORMATS if set(each.needs) <= set(present))


def _labels_only(record: _Record, of: Format, present: Collection[str]) -> bool:
    return of.open or all(of.reads(name) or is_label(name, record[name]) for name in present)


def _blame(record: _Record, present: Collection[str]) -> str:
    """Say why a record is of no format."""
    if media := next((name for name in present if name in MEDIA), None):
        return of_media(media, record)
    questions = [name for name in QUESTIONS if name in present]
    possible = _possible(tuple(present))
    if not possible:
        return _missing(record)
    if len(questions) > 1:
        return ambiguous(questions[0], questions[1])
    fitting = [each for each in possible if each.fits(record)]  # one at least: those of the same columns share all
    nearest = max(fitting, key=lambda each: sum(map(each.reads, present)))
    idle = next(name for name in present if not nearest.reads(name) and not is_label(name, record[name]))
    return unread(record, idle, f"in the format {nearest.described()}")


def _missing(record: _Record) -> str:
    for name in ("chosen", "rejected"):
        if name not in record:
            hint = renaming(name, record) or f"; its fields are {', '.join(record)[:80] or 'none'}"
            return f"has no field {name!r}{hint}"
    raise AssertionError("chosen and rejected alone are a format")


def renaming(name: str, record: _Record) -> str:
    near = get_close_matches(name, record, n=1)
    return f"; rename {near[0]!r}" if near else ""


def ambiguous(one: str, other: str) -> str:
    return f"has both {one!r} and {other!r}, and each could be the question; keep one"


def unread(record: _Record, name: str, where: str) -> str:
    hint = "if it is the question, call it 'prompt'; " if not any(each in record for each in QUESTIONS) else ""
    return (
        f"the column {name!r} ({kind(record[name])}) would be read by nobody {where}; {hint}remove it, or call it "
        f"'meta_{name}' if it is no content"
    )


def of_media(name: str, record: _Record) -> str:
    return f"the column {name!r} holds {kind(record[name])}, but only text is trained on; leave such records out"
