"""Conversations through a model's chat template, which may refuse them, and texts that went through it already."""

from __future__ import annotations

__all__ = ["apply_template", "fold_system", "joined_system", "template_options", "unread_lines"]

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import Any

from transformers import PreTrainedTokenizerBase

from ropo.core.errors import UserError

_PROBE = "ropo-probe-of-the-template"
_TELLING = 4  # characters below which what a template ends with could end anybody's text


@dataclass(frozen=True)
class _Frame:
    """What a template writes around the user's turn.

    Attributes:
        starts: What a templated text may begin with, to the end of the line; an empty one where a system's text comes
            first of all.
        head: What stands right before the user's text.
        end: The special token that ends the turn; empty where there is none.
        closing: All that stands between the user's text and the answer.
        special: All special tokens.
    """

    starts: tuple[str, ...] = ()
    head: str = ""
    end: str = ""
    closing: str = ""
    special: tuple[str, ...] = ()


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
        UserError: If there is no template, or it refuses the conversation, as some do where roles do not alternate, or
            it would drop tool calls without a word.
    """
    if tokenizer.chat_template is None:
        raise UserError(
            f"model {tokenizer.name_or_path}: its tokenizer has no chat template, which messages need; use an "
            "instruction-tuned model, give plain texts, or set chat_template in its tokenizer_config.json"
        )
    calling = any(turn.get("tool_calls") for turn in turns)
    if calling and isinstance(tokenizer.chat_template, str) and _drops_calls(tokenizer, tokenizer.chat_template):
        raise UserError(
            f"{where}: has tool_calls, which the model's chat template leaves out; "
            "write the calls into the content, or use a model whose template knows them"
        )
    try:
        return tokenizer.apply_chat_template(list(turns), **options)
    except Exception as error:  # a template is a program that came with the model: it may raise anything
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(
            f"{where}: the model's chat template does not take this conversation ({reason}); mend its turns"
        ) from error


def fold_system(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Put a system turn's text before the user's where the chat template knows no system turn, as Gemma 2's.

    For questions of our own only: in the user's data such a turn is the user's to mend.

    Args:
        tokenizer: With a chat template.
        turns: A conversation, whose first turn may be the system's.

    Returns:
        The same conversation where the template renders a system turn, or there is none.
    """
    probe = [{"role": "system", "content": _PROBE}, {"role": "user", "content": "u"}]
    if len(turns) < 2 or turns[0]["role"] != "system" or any(_around_probe(tokenizer, probe)):
        return [dict(turn) for turn in turns]
    return joined_system(turns)


def joined_system(turns: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return a conversation whose system turn, the first, is the beginning of the user's first turn instead."""
    system, first, *rest = turns
    return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *map(dict, rest)]


@lru_cache(maxsize=8)
def _drops_calls(tokenizer: PreTrainedTokenizerBase, template: str) -> bool:
    """Tell whether the template takes a tool call and writes none; `template` is there for the cache alone."""
    call = {"type": "function", "function": {"name": _PROBE, "arguments": {}}}
    turns: list[dict[str, Any]] = [{"role": "user", "content": "u"}]
    turns.append({"role": "assistant", "content": "", "tool_calls": [call]})
    try:
        return _PROBE not in str(tokenizer.apply_chat_template(turns, tokenize=False))
    except Exception:  # a template is a program that came with the model; then the record itself shows what it does
        return False


def unread_lines(tokenizer: PreTrainedTokenizerBase, records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say what records give the chat template that it leaves out: their tools, or options that it does not know.

    Args:
        tokenizer: The model's own.
        records: With a `prompt`, and `tools` and `chat_template_kwargs` where they have some.

    Returns:
        A line for each name that is not read.

    Cost: two renderings for each option of a record; nothing for records without any.
    """
    unread = Counter(name for record in records for name in _unread(tokenizer, record))
    return [f"{name} of {count} records: left out by the model's chat template" for name, count in unread.items()]


def _unread(tokenizer: PreTrainedTokenizerBase, record: Mapping[str, Any]) -> list[str]:
    options = {name: value for name, value in template_options(record).items() if value is not None}
    if not options or tokenizer.chat_template is None or isinstance(record["prompt"], str):
        return []

    def rendered(**given: Any) -> Any:
        return apply_template(tokenizer, record["prompt"], "prompt", tokenize=False, **given)

    def is_left_out(name: str) -> bool:
        try:
            return rendered(**{each: options[each] for each in options if each != name}) == whole
        except UserError:  # a template that cannot do without it reads it
            return False

    whole = rendered(**options)
    return [name for name in options if is_left_out(name)]


def is_templated(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Tell whether a prompt went through the tokenizer's chat template already.

    It did if it begins as the template begins, and holds a user's turn that is over. A text that merely mentions a
    token of the template, at its beginning or its end too, did not.

    Args:
        tokenizer: The model's own; one without a template knows no templated text.
        text: The prompt.
    """
    if not isinstance(tokenizer.chat_template, str):
        return False
    frame = _frame(tokenizer, tokenizer.chat_template)
    begun = _without_bos(tokenizer, text)
    if not frame.closing or not begun.startswith(frame.starts):
        return False
    _, found, rest = begun.rstrip().partition(frame.head)
    if not found:
        return False
    if rest.endswith((frame.closing, frame.end or frame.closing)):
        return True
    # The answer may have been begun. A frame of one token on either side says little: "[INST] and [/INST] are what?"
    _, _, after = rest.partition(frame.end or frame.closing)
    several_lines = "\n" in frame.head or "\n" in frame.closing
    telling = several_lines or begun != text.lstrip()
    return after.lstrip().startswith(frame.special) or (telling and frame.closing in rest)


@lru_cache(maxsize=8)
def _frame(tokenizer: PreTrainedTokenizerBase, template: str) -> _Frame:
    """Read off the template what it writes around a user's turn; `template` is there for the cache alone."""
    user, earlier = {"role": "user", "content": _PROBE}, {"role": "user", "content": "u"}
    before, after = _around_probe(tokenizer, [user])
    if not after:  # it may want other turns; then nothing is known of it
        return _Frame()
    special = tuple(token.content for token in tokenizer.added_tokens_decoder.values() if token.content)
    opening = max((token for token in special if before.startswith(token)), key=len, default="")
    later, _ = _around_probe(tokenizer, [earlier, {"role": "assistant", "content": "a"}, user])
    head = _common_end(before, later) if later else before
    head = _line(head[max(0, head.rfind(opening)) :] if opening else head)
    system, knows_system = _around_probe(tokenizer, [{"role": "system", "content": _PROBE}, earlier])
    closing = after.strip()
    end = max((token for token in special if closing.startswith(token)), key=len, default="")
    telling = bool(head) and len(closing) >= _TELLING and not closing.isalnum()
    starts = (head, _line(before), *((_line(system),) if knows_system else ()))
    return _Frame(starts, head, end, closing if telling else "", special)


def _around_probe(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]]) -> tuple[str, str]:
    """Return what the template writes before and after the probe, the tokenizer's first token aside; empty if none."""
    try:
        rendered = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    except Exception:  # a template is a program that came with the model: it may raise anything
        return "", ""
    before, _, after = rendered.partition(_PROBE)
    return (_without_bos(tokenizer, before), after) if after else ("", "")


def _line(text: str) -> str:
    """Return the first line of a text, with its break, without the blanks before it."""
    line, broken, _ = text.lstrip().partition("\n")
    return line.rstrip() + broken


def _common_end(one: str, other: str) -> str:
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(reversed(one), reversed(other), strict=False))
    return "".join(character for character, _ in alike)[::-1]


def _without_bos(tokenizer: Any, text: str) -> str:
    bos = tokenizer.bos_token
    return text.lstrip().removeprefix(bos).lstrip() if bos else text.lstrip()
