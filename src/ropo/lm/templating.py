"""Conversations through a model's chat template, which may refuse them, and texts that went through it already."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from ropo.core.errors import UserError

_PROBE = "ropo-probe-of-the-template"
_TELLING = 4  # characters below which what a template ends with could end anybody's text


@dataclass(frozen=True)
class _Frame:
    """What a template writes around the user's first turn: the marker that it begins with, and all that follows."""

    opening: str
    closing: str


def template_options(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a record gives the chat template beside its messages: its tools, and options of the template."""
    tools = record.get("tools")
    return {
        "tools": json.loads(tools) if isinstance(tools, str) else tools,
        **(record.get("chat_template_kwargs") or {}),
    }


def apply_template(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[dict[str, Any]], where: str, **options: Any
) -> Any:
    """Call the tokenizer's `apply_chat_template`.

    Args:
        tokenizer: The model's own.
        turns: The conversation.
        where: Its place, for the message.
        **options: Of `apply_chat_template`, and of the template itself.

    Raises:
        UserError: If there is no template, or it refuses the conversation, as some do where roles do not alternate.
    """
    if tokenizer.chat_template is None:
        raise UserError(
            f"model {tokenizer.name_or_path}: its tokenizer has no chat template, which messages need; use an "
            "instruction-tuned model, give plain texts, or set chat_template in its tokenizer_config.json"
        )
    try:
        return tokenizer.apply_chat_template(list(turns), **options)
    except Exception as error:  # a template is a program that came with the model: it may raise anything
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(
            f"{where}: the model's chat template does not take this conversation ({reason}); mend its turns"
        ) from error


def is_templated(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Tell whether a prompt went through the tokenizer's chat template already.

    It did if it begins with the special token that the template begins a turn with, or ends with what the template
    writes between the user's turn and the answer.

    Args:
        tokenizer: The model's own; one without a template knows no templated text.
        text: The prompt.
    """
    if not isinstance(tokenizer.chat_template, str):
        return False
    frame = _frame(tokenizer, tokenizer.chat_template)
    begins = bool(frame.opening) and _without_bos(tokenizer, text).startswith(frame.opening)
    return begins or (bool(frame.closing) and text.rstrip().endswith(frame.closing))


@lru_cache(maxsize=8)
def _frame(tokenizer: PreTrainedTokenizerBase, template: str) -> _Frame:
    """Read off the template what it writes around a user's turn; `template` is there for the cache alone."""
    turn = [{"role": "user", "content": _PROBE}]
    try:
        rendered = str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
    except Exception:  # it may want other turns; then nothing is known of it
        return _Frame("", "")
    before, found, after = rendered.partition(_PROBE)
    if not found:
        return _Frame("", "")
    before = _without_bos(tokenizer, before)
    special = {token.content for token in tokenizer.added_tokens_decoder.values()}
    opening = max((token for token in special if before.startswith(token)), key=len, default="")
    closing = after.strip()
    return _Frame(opening, closing if len(closing) >= _TELLING and not closing.isalnum() else "")


def _without_bos(tokenizer: Any, text: str) -> str:
    bos = tokenizer.bos_token
    return text.lstrip().removeprefix(bos).lstrip() if bos else text.lstrip()
