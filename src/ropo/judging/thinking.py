"""What a judge says after its thinking, and whether a text ends inside thinking."""

from __future__ import annotations

__all__ = ()

import re
import unicodedata

_THINKING = r"(?:seed:)?think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad"
_OPENING = rf"<(?:{_THINKING})>|<\|begin_of_(?:{_THINKING})\|>|\[THINK\]|◁think▷|<\|channel\|?>\s*(?:analysis|thought)"
# The last two: where the answer proper begins in the channels of gpt-oss, whole and with special tokens left out.
_CLOSING = (
    rf"</(?:{_THINKING})>|<\|end_of_(?:{_THINKING})\|>|\[/THINK\]|◁/think▷|<channel\|>"
    r"|<\|channel\|>\s*final\s*<\|message\|>|assistantfinal"
)
_OPEN, _CLOSE = re.compile(_OPENING, re.IGNORECASE), re.compile(_CLOSING, re.IGNORECASE)
_BLOCK = re.compile(rf"(?:{_OPENING})(?:(?!{_OPENING}).)*?(?:{_CLOSING})", re.IGNORECASE | re.DOTALL)
_SPECIAL = re.compile(r"<\|[^|<>]{1,30}\|>|</s>|<eos>|<end_of_turn>")


def spoken(text: str) -> str:
    """Return what a judge says after its thinking; empty where it was cut while it thought.

    A closing mark without an opening one ends thinking that the chat template began.
    """
    while (shorter := _BLOCK.sub("\n", text)) != text:
        text = shorter
    text = _CLOSE.split(text)[-1]
    text = _OPEN.split(text)[0]
    return _SPECIAL.sub("", unicodedata.normalize("NFKC", text)).strip()


def is_thinking(text: str) -> bool:
    """Tell whether a text, such as a prompt's opening of the judge's turn, ends inside thinking."""
    return bool(_OPEN.search(_CLOSE.split(text)[-1]))
