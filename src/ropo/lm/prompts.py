"""Read prompts from JSON Lines."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropo.core.errors import UserError
from ropo.core.json_lines import read_json_lines

Turn = dict[str, str]
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class PromptRecord:
    """Hold one prompt: the conversation to continue, all fields of its record, and its line in the file."""

    fields: dict[str, Any]
    turns: list[Turn]
    line: int


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
