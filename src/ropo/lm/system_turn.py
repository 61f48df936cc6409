"""The system turn of our own questions, for models whose chat template knows none."""

from __future__ import annotations

__all__ = ["fold_system", "joined_system"]

from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

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
    except Exception:  # a template is a program that came with the model: it may raise anything
        return False
