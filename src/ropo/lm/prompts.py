"""Read prompts from JSON Lines, and tokenise them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ropo.core.errors import UserError
from ropo.core.json_lines import read_json_lines
from ropo.lm.tokens import tokenize_prompt

Turn = dict[str, str]
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class PromptRecord:
    """Hold one prompt: the conversation to continue, all fields of its record, and its line in the file."""

    fields: dict[str, Any]
    turns: list[Turn]
    line: int

    @property
    def rendered(self) -> dict[str, Any]:
        """What the model gets to see: text or conversation, and what the chat template gets beside it."""
        text = self.fields.get("prompt", self.fields.get("instruction"))
        options = {name: self.fields[name] for name in ("tools", "chat_template_kwargs") if self.fields.get(name)}
        return {"prompt": text if isinstance(text, str) else self.turns, **options}


def read_prompts(path: str | Path) -> list[PromptRecord]:
    """Read a JSON Lines file of prompts.

    Args:
        path: Each line an object with `prompt` (text, or a list of turns that ends with the user's) or, as in
            AlpacaEval, `instruction`; other fields are kept. Blank lines are skipped.

    Returns:
        The records in the order of the file.

    Raises:
        UserError: If the file is missing, empty, or a line is malformed; names the line.
    """
    path = Path(path)
    return [_to_prompt(f"prompts {path}:{line}", fields, line) for line, fields in read_json_lines("prompts", path)]


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[PromptRecord]) -> list[list[int]]:
    """Turn prompts into token ids that the answer continues; see `ropo.lm.tokens.tokenize_prompt`.

    A text is the user's turn, as in `ropo train`; a model without a chat template continues it as it stands.
    """
    records = [each.rendered for each in prompts]
    if tokenizer.chat_template is not None:
        records = [{**record, "prompt": each.turns} for record, each in zip(records, prompts, strict=True)]
    return [
        tokenize_prompt(tokenizer, record, f"prompt on line {each.line}")
        for record, each in zip(records, prompts, strict=True)
    ]


def prompts_digest(prompts: Sequence[PromptRecord]) -> str:
    """Return a SHA-256 of what a model gets to see of the prompts, in hexadecimal digits."""
    return hashlib.sha256(json.dumps([each.rendered for each in prompts]).encode()).hexdigest()


def _to_prompt(where: str, fields: dict[str, Any], line: int) -> PromptRecord:
    prompt = fields.get("prompt", fields.get("instruction"))
    if isinstance(prompt, str) and prompt.strip():
        return PromptRecord(fields, [{"role": "user", "content": prompt}], line)
    if isinstance(prompt, list) and _is_conversation(prompt):
        return PromptRecord(fields, prompt, line)
    raise UserError(
        f"{where}: `prompt` (or `instruction`) must be a non-empty text, or a list of turns with `role` and `content` "
        f"that ends with the user's, got {json.dumps(prompt)[:60]}; mend the field"
    )


def _is_conversation(turns: list[Any]) -> bool:
    well_formed = all(
        isinstance(turn, dict)
        and turn.get("role") in ROLES
        and isinstance(turn.get("content"), str)
        and turn["content"].strip()
        for turn in turns
    )
    return bool(turns) and well_formed and turns[-1]["role"] == "user"
