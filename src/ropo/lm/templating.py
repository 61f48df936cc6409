"""Conversations through a model's chat template, which may refuse them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from ropo.core.errors import UserError


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
