"""Turn held-out pairs and plain text into the tokens that the model is measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from ropo.core.errors import UserError
from ropo.lm.log_probs import TokenPair
from ropo.lm.templating import apply_template


def tokenize_pair(tokenizer: PreTrainedTokenizerBase, pair: Mapping[str, Any]) -> TokenPair:
    """Tokenise a preference pair as `trl.DPOTrainer` does.

    Messages go through the chat template; plain answers get an end-of-sequence token. An answer starts where the tokens
    of the whole leave those of the prompt.

    Args:
        tokenizer: The model's own.
        pair: `prompt`, `chosen` and `rejected`, all three plain texts or all three lists of messages.

    Returns:
        The token ids.

    Raises:
        UserError: If the tokenizer has no chat template for messages.
    """
    end = (tokenizer.eos_token or "") if isinstance(pair["prompt"], str) else []
    prompt = _encode(tokenizer, pair["prompt"], opened=True)
    wholes = [_encode(tokenizer, pair["prompt"] + pair[name] + end) for name in ("chosen", "rejected")]
    start = min(_common_length(prompt, whole) for whole in wholes)
    return TokenPair(wholes[0][:start], wholes[0][start:], wholes[1][start:])


def shorten_pair(pair: TokenPair, longest: int) -> TokenPair:
    """Cut a pair to the last `longest` prompt tokens and the first `longest` tokens of each answer."""
    return TokenPair(pair.prompt[-longest:], pair.chosen[:longest], pair.rejected[:longest])


def text_windows(tokenizer: PreTrainedTokenizerBase, text: str, window: int, most: int) -> list[list[int]]:
    """Cut a plain text into windows of tokens that do not overlap.

    Args:
        tokenizer: The model's own.
        text: Plain text.
        window: Tokens a window.
        most: Number of windows at most, from the beginning of the text.

    Returns:
        At least one window of at least two tokens; the last one may be shorter than the others.

    Raises:
        UserError: If the text has fewer than two tokens.
    """
    # Four characters a token would be typical; forty times the need is cheap and always enough but for odd texts.
    ids = tokenizer(text[: 40 * window * most], add_special_tokens=False)["input_ids"]
    windows = [ids[start : start + window] for start in range(0, min(len(ids), window * most), window)]
    windows = [ids for ids in windows if len(ids) > 1]
    if not windows:
        raise UserError("text: needs at least two tokens of plain text, got fewer; give a longer file")
    return windows


def _encode(tokenizer: Any, text: str | list[dict[str, str]], opened: bool = False) -> list[int]:
    """Tokenise a plain text, or messages with (`opened`) or without the beginning of the assistant's next turn."""
    if isinstance(text, str):
        return tokenizer(text)["input_ids"]
    if tokenizer.chat_template is None:
        raise UserError(
            f"model {tokenizer.name_or_path}: its tokenizer has no chat template, which pairs of messages need; "
            "give pairs of plain texts, or set chat_template in its tokenizer_config.json"
        )
    return apply_template(tokenizer, text, "pairs", add_generation_prompt=opened, return_dict=False)


def _common_length(ids: Sequence[int], others: Sequence[int]) -> int:
    differing = (i for i, (a, b) in enumerate(zip(ids, others, strict=False)) if a != b)
    return next(differing, min(len(ids), len(others)))
