r"""Anthropic HH's dialogues: one text of "\n\nHuman: ...\n\nAssistant: ..." whose last turn is the answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ropo.preferences.formats.turns import Messages, assistant, user

_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_OPEN = "\n\nAssistant:"


def is_dialogue(text: Any) -> bool:
    """Tell whether a text is a dialogue that starts with Human and comes to an Assistant."""
    return isinstance(text, str) and text.lstrip().startswith("Human:") and _OPEN in text


def is_open(text: Any) -> bool:
    """Tell whether a text is a dialogue that ends where the assistant is to answer."""
    return is_dialogue(text) and text.rstrip().endswith(_OPEN)


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
    answers = {name: _messages(_OPEN + pair[name]) for name in ("chosen", "rejected")}
    return {**pair, "prompt": _messages(pair["prompt"].rstrip().removesuffix(_OPEN)), **answers}


def _turns(text: str) -> list[tuple[str, str, int]]:
    """Return who speaks in each turn, what, and where what is said starts."""
    found = list(_TURN.finditer(text))
    ends = [match.start() for match in found[1:]] + [len(text)]
    return [(match[1], text[match.end() : end].strip(), match.end()) for match, end in zip(found, ends, strict=True)]


def _messages(text: str) -> Messages:
    return [(user if who == "Human" else assistant)(said) for who, said, _ in _turns(text)]
