r"""Turns of a conversation in every shape that people write them, as messages with role and content.

Most are lists of objects; Anthropic HH's are one text of "\n\nHuman: ...\n\nAssistant: ...", the last one the answer.
"""

from __future__ import annotations

__all__ = ()

import re
from collections.abc import Mapping
from typing import Any

from ropo.core.json_lines import parse_json

Messages = list[dict[str, Any]]

ROLES = ("system", "developer", "user", "assistant", "tool")
_OTHER_NAMES = {
    "human": "user",
    **dict.fromkeys(("gpt", "bot", "model", "chatgpt"), "assistant"),
    **dict.fromkeys(("observation", "tool_response", "function_response"), "tool"),
}
OTHER_ASSISTANTS = tuple(name for name, role in _OTHER_NAMES.items() if role == "assistant")
CALLS = ("function_call", "tool_call")  # an assistant's turn whose text is the JSON of its calls
# What a text looks like that is a list of messages itself: trained on as it is, it would teach JSON.
_WRITTEN_MESSAGES = re.compile(r"""\s*\[\s*\{\s*['"](role|content|from|value)['"]\s*:.*\}\s*\]\s*""", re.DOTALL)
_WRITTEN_MESSAGE = re.compile(
    r"""\s*\{\s*(['"])(?:(?:role|content)\1\s*:.*\1(?:role|content)|(?:from|value)\1\s*:.*\1(?:from|value))\1\s*:"""
    r""".*\}\s*""",
    re.DOTALL,
)

# Turns of a dialogue in one text.
_GAP = r"(?:\r?\n){2}"  # a blank line, as any system writes it
_TURN = re.compile(rf"(?:\A\s*|{_GAP})(Human|Assistant):")
_BEGINS = re.compile(rf"\s*Human:.*?{_GAP}Assistant:", re.DOTALL)
_OPEN = re.compile(rf"{_GAP}Assistant:\s*\Z")
# What a dialogue looks like that is not quite one: turns with a name at a line's beginning.
_SPEAKER = re.compile(r"^[ \t]*(Human|User|Assistant):", re.MULTILINE)
_ENDS = re.compile(r"^[ \t]*Assistant:\s*\Z", re.MULTILINE)


def is_written_out(text: str) -> bool:
    """Tell whether a text is a list of messages, or a message, written out."""
    return any(pattern.fullmatch(text) for pattern in (_WRITTEN_MESSAGES, _WRITTEN_MESSAGE))


def check_plain(name: str, text: str) -> None:
    """Raise `ValueError` for a text that is empty, or a list of messages written out."""
    if not text.strip():
        raise ValueError(f"{name} is empty; fill it in or remove the record")
    if is_written_out(text):
        raise ValueError(f"{name} is a text that holds a list of messages; write the list itself")


def user(content: str) -> dict[str, Any]:
    """Return a user's message."""
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, Any]:
    """Return an assistant's message."""
    return {"role": "assistant", "content": content}


def messages_of(name: str, turns: Any) -> Messages:
    """Return the messages of a list of turns, which are ShareGPT's `from` and `value`, or `role` and `content`.

    Raises:
        ValueError: If there is no turn, or one is neither, or its role is unknown.
    """
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"{name} must be a list of turns, not {kind(turns)}")
    return [message_of(f"{name}, turn {number}", turn) for number, turn in enumerate(turns, start=1)]


def message_of(name: str, turn: Any) -> dict[str, Any]:
    """Return the message of one turn; one with a role that we know is returned as it is."""
    if not isinstance(turn, dict):
        raise ValueError(f"{name} must be an object with from and value, or role and content, not {kind(turn)}")
    if "from" not in turn:
        return _by_known_role(name, turn)
    unread = [each for each, value in turn.items() if each not in ("from", "value") and value is not None]
    if unread:
        raise ValueError(f"{name} has the field {unread[0]!r} beside from and value, which nobody reads; remove it")
    return _renamed(name, turn["from"], turn.get("value"))


def _by_known_role(name: str, turn: dict[str, Any]) -> dict[str, Any]:
    """Return a message whose role goes by another name under the name that chat templates know."""
    role = turn.get("role")
    if not isinstance(role, str) or role in ROLES:
        return turn
    if role in _OTHER_NAMES:
        return {**turn, "role": _OTHER_NAMES[role]}
    if role == "function" and isinstance(turn.get("name"), str):  # OpenAI's older name for a tool's answer
        return {**turn, "role": "tool"}
    if role == "function":
        raise ValueError(f"{name} has the role 'function', a call or its result; name it 'function_call' or 'tool'")
    if role in CALLS and set(turn) <= {"role", "content"}:
        return _renamed(name, role, turn.get("content"))
    return turn


def _renamed(name: str, role: Any, content: Any) -> dict[str, Any]:
    if not isinstance(content, str):
        raise ValueError(f"{name} must be text, not {kind(content)}")
    if role in CALLS:
        return {"role": "assistant", "tool_calls": [_call(name, each) for each in _calls(name, content)]}
    if not isinstance(role, str) or (role not in ROLES and role not in _OTHER_NAMES):
        known = ", ".join((*_OTHER_NAMES, *ROLES, *CALLS))
        raise ValueError(f"{name} has the role {kind(role)}; known are {known}")
    return {"role": _OTHER_NAMES.get(role, role), "content": content}


def _calls(name: str, content: str) -> list[Any]:
    try:
        calls = parse_json(content.encode())
    except ValueError as error:
        raise ValueError(f"{name} is a call whose value {error}; write the JSON of its name and arguments") from error
    return calls if isinstance(calls, list) and calls else [calls]


def _call(name: str, call: Any) -> dict[str, Any]:
    if not isinstance(call, dict) or not isinstance(call.get("name"), str) or set(call) != {"name", "arguments"}:
        raise ValueError(f"{name} is a call that must be an object with name and arguments, not {kind(call)}")
    return {"type": "function", "function": call}


def answer_of(name: str, value: Any) -> Any:
    """Return an answer as text or messages, whether it is a text, one turn or several."""
    if isinstance(value, dict):
        return [message_of(name, value)]
    if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
        return messages_of(name, value)
    return value


def pairs_of_turns(name: str, turns: Any) -> Messages:
    """Return the messages of ms-swift's conversation: a list of objects with `human` and `assistant`."""
    messages: Messages = []
    for number, turn in enumerate(turns, start=1):
        names = [_OTHER_NAMES.get(each, each) for each in turn] if isinstance(turn, dict) else []
        if names not in (["user", "assistant"], ["user"], ["tool", "assistant"]):
            raise ValueError(f"{name}, turn {number} must be an object with human and assistant, not {kind(turn)}")
        messages += [_renamed(f"{name}, turn {number}", role, content) for role, content in turn.items()]
    return messages


def _history_of(record: Mapping[str, Any]) -> Messages:
    """Return the earlier turns of LLaMA-Factory's and ms-swift's `history`: a list of [user, assistant]."""
    history = parsed("history", record.get("history")) or []
    if not isinstance(history, list):
        raise ValueError(f"history must be a list of [user, assistant], not {kind(history)}")
    messages: Messages = []
    for number, exchange in enumerate(history, start=1):
        if not (isinstance(exchange, list) and len(exchange) == 2 and all(isinstance(each, str) for each in exchange)):
            raise ValueError(f"history, exchange {number} must be [user, assistant] as two texts, not {kind(exchange)}")
        messages += [user(exchange[0]), assistant(exchange[1])]
    return messages


def system_of(record: Mapping[str, Any]) -> Messages:
    """Return the system's message of a `system` column, if it says something."""
    found = [(name, record[name]) for name in ("system", "system_prompt") if (record.get(name) or "") != ""]
    if len(found) > 1 and found[0][1] != found[1][1]:
        raise ValueError("has both 'system' and 'system_prompt'; keep one")
    for name, content in found[:1]:
        if not isinstance(content, str):
            raise ValueError(f"{name} must be text, not {kind(content)}")
        if content.strip():
            return [{"role": "system", "content": content}]
    return []


def before(record: Mapping[str, Any], turns: list[Any]) -> list[Any]:
    """Return the turns with the record's system's message and history in front.

    Raises:
        ValueError: If both the record and the turns bring a system's message, and they differ.
    """
    system = system_of(record)
    if turns and isinstance(turns[0], dict) and turns[0].get("role") in ("system", "developer"):
        if system and turns[0].get("content") != system[0]["content"]:
            raise ValueError("has a system column and turns that start with another system's message; keep one")
        system, turns = turns[:1], turns[1:]
    return [*system, *_history_of(record), *turns]


def parsed(name: str, value: Any) -> Any:
    """Return a value that may be written as its JSON, as in a table of texts."""
    if not isinstance(value, str) or not value.strip():
        return value or None
    try:
        return parse_json(value.encode())
    except ValueError as error:
        raise ValueError(f"{name} {error}; write a list or an object, or its JSON") from error


def kind(value: Any) -> str:
    """Return what a value is, in words that fit in a line."""
    return "nothing" if value is None else f"{value!r:.40} ({type(value).__name__})"


def is_dialogue(text: Any) -> bool:
    """Tell whether a text is a dialogue that starts with Human and comes to an Assistant."""
    return isinstance(text, str) and _BEGINS.match(text) is not None


def is_open(text: Any) -> bool:
    """Tell whether a text is a dialogue that ends where the assistant is to answer."""
    return is_dialogue(text) and _OPEN.search(text) is not None


def refuse_unclear(prompt: str, whole: bool = False) -> None:
    """Refuse a text for a chat template that is marked like a dialogue, but is not one that we can tell the turns of.

    Args:
        prompt: The text.
        whole: Whether it is what two whole texts share, which may go on into the answer.

    Raises:
        ValueError: If it is; as it stands, its names and markup would become a user's words.
    """
    speakers = _SPEAKER.findall(prompt)
    begun = re.match(r"\s*Human:", prompt)
    open_later = len(set(speakers)) > 1 and speakers[-1] == "Assistant" and (whole or _ENDS.search(prompt))
    templated = re.match(r"\s*[<\[]", prompt)  # in the markup of some template, whose text may quote a dialogue
    if (begun and ("Assistant" in speakers or not whole)) or (open_later and not templated):
        raise ValueError(
            f"is marked with Human: and Assistant: ({prompt.strip()[:30]!r}) but not as Anthropic HH's dialogues, "
            "which begin with Human: and part turns by a blank line; write messages, or give --plain_prompts"
        )


def open_dialogue_as_messages(text: str) -> Messages:
    """Return the turns of an open dialogue."""
    return _said_as_messages(_OPEN.sub("", text))


def split_dialogues(record: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return prompt, chosen and rejected, as texts, of two whole dialogues; they part in an assistant's turn.

    Raises:
        ValueError: If they part in a human's turn, or not at all.
    """
    chosen, rejected = record["chosen"], record["rejected"]
    ours, theirs = _spoken(chosen), _spoken(rejected)
    shared = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a[:2] != b[:2]), None)
    if shared is None:
        raise ValueError("one of chosen and rejected is the beginning of the other; give each its answer")
    if ours[shared][0] != "Assistant" or theirs[shared][0] != "Assistant":
        raise ValueError(
            f"the prompts of chosen and rejected differ in turn {shared + 1}; give both answers one prompt"
        )
    start, other = ours[shared][2], theirs[shared][2]
    return chosen[:start], chosen[start:], rejected[other:]


def dialogue_as_messages(pair: dict[str, Any]) -> dict[str, Any]:
    """Return a pair of texts, whose prompt is an open dialogue, as messages."""
    answers = {name: _said_as_messages("\n\nAssistant:" + pair[name]) for name in ("chosen", "rejected")}
    return {**pair, "prompt": open_dialogue_as_messages(pair["prompt"]), **answers}


def _spoken(text: str) -> list[tuple[str, str, int]]:
    """Return who speaks in each turn, what, and where what is said starts."""
    found = list(_TURN.finditer(text))
    ends = [match.start() for match in found[1:]] + [len(text)]
    return [(match[1], text[match.end() : end].strip(), match.end()) for match, end in zip(found, ends, strict=True)]


def _said_as_messages(text: str) -> Messages:
    return [(user if who == "Human" else assistant)(said) for who, said, _ in _spoken(text)]
