"""Turn records and texts into tokens: the one place that does, for training, held-out numbers and sampling alike.

A record is rendered as `trl.DPOTrainer` renders it, which the tests hold against TRL itself. Messages go through the
chat template, with the record's `tools` and `chat_template_kwargs`; plain texts go through the tokenizer, and their
answers end with the end-of-sequence token.
"""

from __future__ import annotations

__all__ = [
    "Limits",
    "TextWindow",
    "TokenPair",
    "first_tokens",
    "holds_templated_prompt",
    "text_windows",
    "tokenize_pair",
    "tokenize_prompt",
]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from ropo.core.errors import UserError
from ropo.lm.templating import apply_template, is_templated, template_options

_ANSWERS = ("chosen", "rejected")


@dataclass(frozen=True)
class TokenPair:
    """One preference pair as token ids: the prompt and its two answers, each with its end token."""

    prompt: Sequence[int]
    chosen: Sequence[int]
    rejected: Sequence[int]

    @property
    def is_complete(self) -> bool:
        """Whether there is something to train on and to score: a prompt may merge wholly into both answers."""
        return bool(self.prompt) and bool(self.chosen) and bool(self.rejected)


@dataclass(frozen=True)
class Limits:
    """Say where a sequence of prompt and answer is cut, as TRL's collator cuts it.

    Args:
        max_length: Most tokens of prompt and answer together; None for no limit.
        truncation_mode: `keep_start` cuts the answer's end, `keep_end` the prompt's beginning.
    """

    max_length: int | None = None
    truncation_mode: str = "keep_start"

    @property
    def prompts_matter(self) -> bool:
        """Whether a prompt can leave no room for its answers."""
        return self.max_length is not None and self.truncation_mode == "keep_start"

    def cut(self, pair: TokenPair) -> list[tuple[Sequence[int], Sequence[int]]]:
        """Return (prompt, answer) of the chosen and of the rejected answer; empty where nothing of it is left.

        Where nothing of the prompt is left, the answer's first token stands for it: nothing predicts the first token of
        a sequence, so training does not score it either.
        """
        return [self._cut(pair.prompt, answer) for answer in (pair.chosen, pair.rejected)]

    def leave_room(self, pair: TokenPair) -> bool:
        """Tell whether each answer keeps a token."""
        return all(answer for _, answer in self.cut(pair))

    def packed_tokens(self, prompt: int, chosen: int, rejected: int) -> int:
        """Count the tokens of one pair in a pack: its prompt but one, and both answers, cut as TRL cuts them.

        Where the beginnings are cut, the answers keep different parts of their prompt, and then share none.
        """
        if self.max_length is None:
            return prompt - 1 + chosen + rejected
        if self.truncation_mode == "keep_start":
            room = self.max_length - prompt
            return prompt - 1 + min(chosen, room) + min(rejected, room)
        left = [max(0, min(prompt, self.max_length - answer)) for answer in (chosen, rejected)]
        cut = [min(answer, self.max_length) for answer in (chosen, rejected)]
        shared = left[0] if left[0] == left[1] else 0
        return sum(left) + sum(cut) - (shared + 1 if shared else 2)

    def _cut(self, prompt: Sequence[int], answer: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
        over = 0 if self.max_length is None else max(0, len(prompt) + len(answer) - self.max_length)
        if over and self.truncation_mode == "keep_start":
            return prompt[: self.max_length], answer[: max(0, len(answer) - over)]
        prompt, answer = prompt[over:], answer[max(0, over - len(prompt)) :]
        return (prompt, answer) if prompt else (answer[:1], answer[1:])


@dataclass(frozen=True)
class TextWindow:
    """A piece of plain text as token ids: a context of at least one token, and the tokens that it predicts."""

    context: Sequence[int]
    tokens: Sequence[int]

    @property
    def ids(self) -> list[int]:
        """Context and tokens in one row."""
        return [*self.context, *self.tokens]


def tokenize_pair(tokenizer: PreTrainedTokenizerBase, record: Mapping[str, Any], where: str = "pair") -> TokenPair:
    """Tokenise a preference pair.

    An answer starts where the tokens of prompt and answer leave those of the prompt alone, for both answers at the
    same place.

    Args:
        tokenizer: The model's own.
        record: `prompt`, `chosen` and `rejected`, all plain texts or all lists of messages; `tools` and
            `chat_template_kwargs` where the template is to have them.
        where: The record's place, for messages.

    Returns:
        The token ids, of any length.

    Raises:
        UserError: If the tokenizer has no chat template for messages, or its template refuses them.
    """
    record, ends = _as_written(tokenizer, record)
    prompt = _encode(tokenizer, record, record["prompt"], where, add_generation_prompt=True)
    wholes = []
    for name in _ANSWERS:
        answer = record[name]
        if isinstance(answer, str) and not answer.endswith(ends):
            answer += tokenizer.eos_token or ""
        wholes.append(_encode(tokenizer, record, record["prompt"] + answer, f"{where}: {name}"))
    start = min(_common_length(prompt, whole) for whole in wholes)
    return TokenPair(prompt[:start], wholes[0][start:], wholes[1][start:])


def tokenize_prompt(tokenizer: PreTrainedTokenizerBase, record: Mapping[str, Any], where: str = "prompt") -> list[int]:
    """Tokenise a prompt so that the model's next token begins the answer.

    Args:
        tokenizer: The model's own.
        record: `prompt`, a plain text or a list of messages; `tools` and `chat_template_kwargs` as in `tokenize_pair`.
        where: The record's place, for messages.

    Returns:
        The token ids.

    Raises:
        UserError: As in `tokenize_pair`.
    """
    record, _ = _as_written(tokenizer, record)
    ids = _encode(tokenizer, record, record["prompt"], where, add_generation_prompt=True)
    # Some tokenizers end every text with the end token, after which no answer comes; in a pair, prompts part before it.
    ends = isinstance(record["prompt"], str) and ids[-1:] == tokenizer("a")["input_ids"][-1:] == [
        tokenizer.eos_token_id
    ]
    return ids[:-1] if ends and not record["prompt"].endswith(tokenizer.eos_token) else ids


def holds_templated_prompt(tokenizer: PreTrainedTokenizerBase, record: Mapping[str, Any]) -> bool:
    """Tell whether a record's prompt is one text that went through the chat template already.

    Such a prompt is tokenised as it stands, although it may have become a user's turn on its way here.
    """
    text = _only_text(record["prompt"])
    return text is not None and is_templated(tokenizer, text)


def text_windows(tokenizer: PreTrainedTokenizerBase, text: str, window: int, most: int) -> list[TextWindow]:
    """Cut a plain text into windows of tokens that do not overlap.

    Each begins with what the tokenizer puts before a text, such as Gemma's and Llama 3's first token, without which
    these models do not know where they are: Gemma 3's loss is then off by nats. A window of a tokenizer that puts
    nothing there has its own first token for context.

    Args:
        tokenizer: The model's own.
        text: Plain text.
        window: Tokens a window, those before the text included.
        most: Number of windows at most, from the beginning of the text.

    Returns:
        At least one window; the last one may be shorter than the others.

    Raises:
        UserError: If the text has too few tokens to predict one.
    """
    first = first_tokens(tokenizer)
    size = window - len(first)
    # Four characters a token would be typical; forty times the need is cheap and always enough but for odd texts.
    ids = tokenizer(text[: 40 * window * most], add_special_tokens=False)["input_ids"]
    pieces = [ids[start : start + size] for start in range(0, min(len(ids), size * most), size)]
    windows = [TextWindow(first or piece[:1], piece if first else piece[1:]) for piece in pieces]
    windows = [each for each in windows if each.tokens]
    if not windows:
        raise UserError("text: needs at least two tokens of plain text, got fewer; give a longer file")
    return windows


def first_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the special tokens that a tokenizer puts before every text."""
    text = "a"
    plain = tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = tokenizer(text)["input_ids"]
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start]
    return []


def _as_written(tokenizer: Any, record: Mapping[str, Any]) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Return the record, plain where its prompt was templated already, and the ends that its plain answers may have."""
    end = tokenizer.eos_token or ""
    if not holds_templated_prompt(tokenizer, record):
        return record, (end,)
    texts = {name: _only_text(record[name]) for name in ("prompt", *_ANSWERS) if name in record}
    if None in texts.values():
        return record, (end,)
    return {**record, **texts}, (end, f"{end}\n")  # a template may break the line after the end token


def _only_text(value: Any) -> str | None:
    """Return a text, or that of the only turn of a conversation; None for anything else."""
    if isinstance(value, str):
        return value
    return value[0].get("content") if len(value) == 1 and not value[0].get("tool_calls") else None


def _encode(
    tokenizer: Any, record: Mapping[str, Any], text: str | list[dict[str, Any]], where: str, **options: Any
) -> list[int]:
    if isinstance(text, str):
        # A templated text brings the first token along that the tokenizer would put there.
        doubled = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
        return tokenizer(text, add_special_tokens=not doubled)["input_ids"]
    return apply_template(tokenizer, text, where, return_dict=False, **options, **template_options(record))


def _common_length(ids: Sequence[int], others: Sequence[int]) -> int:
    differing = (i for i, (a, b) in enumerate(zip(ids, others, strict=False)) if a != b)
    return next(differing, min(len(ids), len(others)))
