r"""Anthropic HH's dialogues: one text of "\n\nHuman: ...\n\nAssistant: ..." whose last turn is the answer."""

from __future__ import annotations

__all__ = ()

import re
from collections.abc import Mapping
from typing import Any

from ropo.preferences.formats.turns import Messages, assistant, user

_GAP = r"(?:\r?\n){2}"  # a blank line, as any system writes it
_TURN = re.compile(rf"(?:\A\s*|{_GAP})(Human|Assistant):")
_BEGINS = re.compile(rf"\s*Human:.*?{_GAP}Assistant:", re.DOTALL)
_OPEN = re.compile(rf"{_GAP}Assistant:\s*\Z")
# What a dialogue looks like that is not quite one: turns with a name at a line's beginning.
_SPEAKER = re.compile(r"^[ \t]*(Human|User|Assistant):", re.MULTILINE)
_ENDS = re.compile(r"^[ \t]*Assistant:\s*\Z", re.MULTILINE)


def is_dialogue(text: Any) -> bool:
    """Tell whether a text is a dialogue that starts with Human and comes to an Assistant."""
    return isinstance(text, str) and _BEGINS.match(text) is not None


def is_open(text: Any) -> bool:
    """Tell whether a text is a dialogue that ends where the assistant is to answer."""
    return is_dialogue(text) and _OPEN.search(text) is not None


def refuse_unclear(prompt: str, whole: bool = False) -> None:
    """Refuse a text for a chat template that is marked like a dialogue, but is not one that we can tell the turns of.

    Args:
        prompt: The text.
        whole: Whether it is what two whole texts share, which may go on into the answer.

    Raises:
        ValueError: If it is; as it stands, its names and markup would become a user's words.
    """
    speakers = _SPEAKER.findall(prompt)
    begun = re.match(r"\s*Human:", prompt)
    open_later = len(set(speakers)) > 1 and speakers[-1] == "Assistant" and (whole or _ENDS.search(prompt))
    templated = re.match(r"\s*[<\[]", prompt)  # in the markup of some template, whose text may quote a dialogue
    if (begun and ("Assistant" in speakers or not whole)) or (open_later and not templated):
        raise ValueError(
            f"is marked with Human: and Assistant: ({prompt.strip()[:30]!r}) but not as Anthropic HH's dialogues, "
            "which begin with Human: and part turns by a blank line; write messages, or give --plain_prompts"
        )


def open_dialogue_as_messages(text: str) -> Messages:
    """Return the turns of an open dialogue."""
    return _messages(_OPEN.sub("", text))


def split_dialogues(record: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return prompt, chosen and rejected, as texts, of two whole dialogues; they part in an assistant's turn.

    Raises:
        ValueError: If they part in a human's turn, or not at all.
    """
    chosen, rejected = record["chosen"], record["rejected"]
    ours, theirs = _turns(chosen), _turns(rejected)
    shared = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a[:2] != b[:2]), None)
    if shared is None:
        raise ValueError("one of chosen and rejected is the beginning of the other; give each its answer")
    if ours[shared][0] != "Assistant" or theirs[shared][0] != "Assistant":
        raise ValueError(
            f"the prompts of chosen and rejected differ in turn {shared + 1}; give both answers one prompt"
        )
    start, other = ours[shared][2], theirs[shared][2]
    return chosen[:start], chosen[start:], rejected[other:]


def dialogue_as_messages(pair: dict[str, Any]) -> dict[str, Any]:
    """Return a pair of texts, whose prompt is an open dialogue, as messages."""
    answers = {name: _messages("\n\nAssistant:" + pair[name]) for name in ("chosen", "rejected")}
    return {**pair, "prompt": open_dialogue_as_messages(pair["prompt"]), **answers}


def _turns(text: str) -> list[tuple[str, str, int]]:
    """Return who speaks in each turn, what, and where what is said starts."""
    found = list(_TURN.finditer(text))
    ends = [match.start() for match in found[1:]] + [len(text)]
    return [(match[1], text[match.end() : end].strip(), match.end()) for match, end in zip(found, ends, strict=True)]


def _messages(text: str) -> Messages:
    return [(user if who == "Human" else assistant)(said) for who, said, _ in _turns(text)]
