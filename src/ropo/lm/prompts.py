"""Read prompts from files, in every format that people have, and tokenise them."""

from __future__ import annotations

__all__ = ["PromptRecord", "Turn"]

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ropo.core.errors import UserError
from ropo.core.once import say
from ropo.lm.templating import unread_lines
from ropo.lm.tokens import tokenize_prompt
from ropo.preferences.formats import kind, prompt_columns, prompt_of, refuse_unclear, text_of
from ropo.preferences.read import Record, read_file
from ropo.preferences.records import check_options, check_text

Turn = dict[str, Any]


@dataclass(frozen=True)
class PromptRecord:
    """One prompt: its record, the conversation to continue, and what the chat template gets beside it.

    Attributes:
        fields: The record as it is in the file.
        turns: Messages that end with the user's, or with a tool's answer.
        line: Its line in the file, or its number.
        options: `tools` and `chat_template_kwargs`, where the record has them.
    """

    fields: dict[str, Any]
    turns: list[Turn]
    line: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def rendered(self) -> dict[str, Any]:
        """What the model gets to see: text or conversation, and what the chat template gets beside it.

        Under TRL's names: `prompt`, `tools`, `chat_template_kwargs`. A text stays one where nothing beside it makes it
        a turn, for models without a chat template.
        """
        text = text_of(self.fields)
        return {"prompt": self.turns if text is None else text, **self.options}

    @property
    def others(self) -> dict[str, Any]:
        """Return the fields that are no part of the prompt: answers and labels, which are carried along."""
        read = prompt_columns(self.fields)
        return {name: value for name, value in self.fields.items() if name not in read}


def read_prompts(path: str | Path) -> list[PromptRecord]:
    """Read a file of prompts.

    Args:
        path: A file as in `ropo.preferences.read.read_file`. Each record has its question in one column: `prompt`
            (text, or messages that end with the user's), `instruction` (with an `input` or without), `question`,
            `query`, `messages` or `conversations`; perhaps `system`, `history`, `tools` and `chat_template_kwargs`.
            Other fields are kept; images and columns such as `context`, content that nobody would read, are refused.

    Returns:
        The records in the order of the file.

    Raises:
        UserError: If the file is missing, empty, or a record is malformed or of no format; names the line.
    """
    path = Path(path)
    prompts = [_to_prompt(row) for row in read_file("prompts", path)]
    if not prompts:
        raise UserError(f"prompts {path}: holds no record; it needs one prompt a line")
    return prompts


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[PromptRecord]) -> list[list[int]]:
    """Turn prompts into token ids that the answer continues; see `ropo.lm.tokens.tokenize_prompt`.

    A text is the user's turn, as in `ropo train`; a model without a chat template continues it as it stands. What
    records give a template that leaves it out is said in a line.
    """
    records = [each.rendered for each in prompts]
    if tokenizer.chat_template is not None:
        for each in prompts:
            _check_plain(each)
        records = [{**record, "prompt": each.turns} for record, each in zip(records, prompts, strict=True)]
    for line in unread_lines(tokenizer, records):
        say(f"prompts: {line}")
    return [
        tokenize_prompt(tokenizer, record, f"prompt on line {each.line}")
        for record, each in zip(records, prompts, strict=True)
    ]


def prompts_digest(prompts: Sequence[PromptRecord]) -> str:
    """Return a SHA-256 of what a model gets to see of the prompts, in hexadecimal digits."""
    return hashlib.sha256(json.dumps([each.rendered for each in prompts]).encode()).hexdigest()


def describe_prompts(prompts: Sequence[PromptRecord]) -> str:
    """Say in a line which columns prompts were read from, and which were carried along."""
    read = Counter(" + ".join(prompt_columns(prompt.fields)) for prompt in prompts)
    columns = ", ".join(f"{names}{f' in {count} records' if len(read) > 1 else ''}" for names, count in read.items())
    carried = ", ".join(repr(name) for name in dict.fromkeys(name for prompt in prompts for name in prompt.others))
    return f"prompts read from {columns}" + (f"; not read, carried along: {carried}" if carried else "")


def _check_plain(prompt: PromptRecord) -> None:
    text = text_of(prompt.fields)
    if text is not None and len(prompt.turns) == 1 and prompt.turns[0]["content"] == text:
        try:
            refuse_unclear(text)
        except ValueError as error:
            raise UserError(f"prompt on line {prompt.line}: {error}") from error


def _to_prompt(row: Record) -> PromptRecord:
    try:
        found = prompt_of(row.fields)
        turns = found.pop("prompt")
        check_text("prompt", turns)
        check_options(found)
        if turns[-1]["role"] not in ("user", "tool"):
            raise ValueError(
                f"the prompt must end with the user's turn, or a tool's, not with {kind(turns[-1])}; cut it"
            )
    except ValueError as error:
        raise UserError(f"prompts {row.where}: {error}") from error
    return PromptRecord(row.fields, turns, row.number, found)
