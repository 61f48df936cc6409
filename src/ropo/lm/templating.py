"""Conversations through a model's chat template, which may refuse them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from ropo.core.errors import UserError

_PROBE = "7c1f0e"  # a text that no template holds by itself


def fold_system(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Put a system turn's text before the user's where the chat template knows no system turn, as Gemma 2's.

    For questions of our own only: in the user's data such a turn is the user's to mend.

    Args:
        tokenizer: With a chat template.
        turns: A conversation, whose first turn may be the system's.

    Returns:
        The same conversation where the template renders a system turn, or there is none.
    """
    if len(turns) < 2 or turns[0]["role"] != "system" or _renders_system(tokenizer):
        return [dict(turn) for turn in turns]
    return joined_system(turns)


def joined_system(turns: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return a conversation whose system turn, the first, is the beginning of the user's first turn instead."""
    system, first, *rest = turns
    return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *map(dict, rest)]


def _renders_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    probe = [{"role": "system", "content": _PROBE}, {"role": "user", "content": "x"}]
    try:
        return _PROBE in str(tokenizer.apply_chat_template(probe, tokenize=False))
    except Exception:  # as in `apply_template`
        return False


def apply_template(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[dict[str, Any]], where: str, **options: Any
) -> Any:
    """Call the tokenizer's `apply_chat_template`.

    Args:
        tokenizer: With a chat template.
        turns: The conversation.
        where: Its place, for the message.
        **options: Of `apply_chat_template`, and of the template itself.

    Raises:
        UserError: If the template refuses the conversation, as some do where roles do not alternate.
    """
    try:
        return tokenizer.apply_chat_template(list(turns), **options)
    except Exception as error:  # a template is a program that came with the model: it may raise anything
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(
            f"{where}: the model's chat template does not take this conversation ({reason}); mend its turns"
        ) from error
