"""Check TRL's records, and refuse every one that could only train on a mistake.

TRL's formats are a prompt with two answers, as plain text or as lists of messages, and two whole texts or conversations
whose common beginning is the prompt. A pair comes out as plain text or as messages:

    {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"}
    {"prompt": [{"role": "user", "content": "2 + 2 = ?"}],
     "chosen": [{"role": "assistant", "content": "4"}], "rejected": [{"role": "assistant", "content": "5"}]}
"""

from __future__ import annotations

__all__ = ["check_options", "check_text"]

import json
from typing import Any

from ropo.preferences.formats import ROLES, kind
from ropo.preferences.formats.columns import MEDIA
from ropo.preferences.formats.turns import check_plain

ANSWERS = ("chosen", "rejected")
_OWN_OPTIONS = ("conversation", "tools", "add_generation_prompt", "continue_final_message", "tokenize", "return_dict")

_Text = str | list[dict[str, Any]]  # plain, or messages
Pair = dict[str, Any]


def to_pair(record: dict[str, Any]) -> Pair:
    """Return prompt, chosen and rejected of one kind, whichever way TRL's record gives the prompt.

    Raises:
        ValueError: If a field is empty or of another kind, a message is malformed, or there is no prompt or no answer.
    """
    for name in ("prompt", *ANSWERS):
        if name in record:
            check_text(name, record[name])
    check_options(record)
    prompt, chosen, rejected = _parts(record.get("prompt"), record["chosen"], record["rejected"])
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        _check_answer(name, answer)
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected} | _passed_on(record)


def _parts(prompt: _Text | None, chosen: _Text, rejected: _Text) -> tuple[_Text, _Text, _Text]:
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise ValueError("one of chosen and rejected is text, the other messages; make them alike")
    if isinstance(chosen, str) or isinstance(rejected, str):
        assert isinstance(chosen, str)
        assert isinstance(rejected, str)
        if isinstance(prompt, list):
            raise ValueError("prompt is messages but the answers are text; make them alike")
        return (prompt, chosen, rejected) if prompt is not None else _split_texts(chosen, rejected)
    if prompt is None:
        return _split_conversations(chosen, rejected)
    if chosen[0]["role"] == "assistant":
        return ([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt), chosen, rejected
    if isinstance(prompt, list):
        raise ValueError("chosen must start with the assistant's turn; it repeats the prompt")
    shared, chosen, rejected = _split_conversations(chosen, rejected)
    if not any(turn["role"] == "user" and turn.get("content", "").strip() == prompt.strip() for turn in shared):
        raise ValueError(
            f"prompt says {prompt[:40]!r}, which is no user's turn of chosen and rejected; keep one of the two"
        )
    return shared, chosen, rejected


def check_text(name: str, value: Any) -> None:
    """Check a text or a list of messages.

    Raises:
        ValueError: If it is empty, something else, or a text that holds a list of messages.
    """
    if isinstance(value, str):
        check_plain(name, value)
        return
    if not isinstance(value, list):
        raise ValueError(f"{name} must be text or a list of messages, not {kind(value)}")
    if not value:
        raise ValueError(f"{name} is an empty list; fill it in or remove the record")
    for number, message in enumerate(value, start=1):
        _check_message(f"{name}, message {number}", message)


def check_options(record: dict[str, Any]) -> None:
    """Check the options for the chat template.

    Raises:
        ValueError: If one of them is ours to set.
    """
    for name in record.get("chat_template_kwargs") or {}:
        if name in _OWN_OPTIONS:
            raise ValueError(f"chat_template_kwargs must not set {name!r}, which ropo sets; remove it")


def _passed_on(record: dict[str, Any]) -> dict[str, Any]:
    """Return what TRL hands to the chat template; tools as JSON, as TRL takes them too."""
    tools = record.get("tools")
    passed = {
        "tools": tools if isinstance(tools, str | None) else json.dumps(tools),
        "chat_template_kwargs": record.get("chat_template_kwargs"),
    }
    return {name: value for name, value in passed.items() if value}


def _check_message(name: str, message: Any) -> None:
    if not isinstance(message, dict) or "role" not in message:
        raise ValueError(f"{name}: must be an object with role and content, not {kind(message)}")
    if message["role"] not in ROLES:
        raise ValueError(f"{name}: the role must be one of {', '.join(ROLES)}, not {kind(message['role'])}")
    if media := next((each for each in MEDIA if message.get(each)), None):
        raise ValueError(
            f"{name}: {media!r} holds {kind(message[media])}, but only text is trained on; leave such records out"
        )
    _check_calls(name, message)
    content = message.get("content")
    calls = message["role"] == "assistant" and message.get("tool_calls")
    if calls and content is None:
        return
    if not isinstance(content, str):
        raise ValueError(f"{name}: content must be text, not {kind(content)}")
    if not content.strip() and message["role"] != "system" and not calls:
        raise ValueError(f"{name}: content is empty; fill it in or remove the record")


def _check_calls(name: str, message: dict[str, Any]) -> None:
    """Check the calls of a message, which are as OpenAI's or, as transformers takes too, the function's part alone."""
    if message.get("function_call"):
        raise ValueError(f"{name}: function_call is read by no chat template; write it as tool_calls")
    calls = message.get("tool_calls")
    if calls and message["role"] != "assistant":
        raise ValueError(f"{name}: tool_calls belong to the assistant's turn, not to {message['role']!r}; remove them")
    if calls is None:
        return
    if not isinstance(calls, list):
        raise ValueError(f"{name}: tool_calls must be a list of calls, not {kind(calls)}; write the list itself")
    for number, call in enumerate(calls, start=1):
        _check_call(f"{name}: tool_calls, call {number}", call)


def _check_call(where: str, call: Any) -> None:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise ValueError(f"{where}: must be an object with a function, which has name and arguments, not {kind(call)}")
    named = function.get("name")
    if not isinstance(named, str) or not named.strip():
        raise ValueError(f"{where}: the function's name must be text, not {kind(named)}; name what is called")
    arguments = function.get("arguments", {})  # a template that needs them says so itself
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError as error:
            raise ValueError(
                f"{where}: arguments must be an object or its JSON, not {kind(arguments)}; mend the JSON"
            ) from error
    if not isinstance(arguments, dict):
        raise ValueError(f"{where}: arguments must be an object or its JSON, not {kind(arguments)}")


def _split_texts(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Split two plain texts after the beginning that they share."""
    from trl.data_utils import extract_prompt

    parts: dict[str, Any] = extract_prompt({"chosen": chosen, "rejected": rejected})
    if not parts["prompt"].strip():
        raise ValueError("chosen and rejected share no beginning to take as prompt; add a prompt field")
    return parts["prompt"], parts["chosen"], parts["rejected"]


def _split_conversations(chosen: list, rejected: list) -> tuple[list, list, list]:
    """Split two conversations after the turns that they share."""
    shared = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), None)
    if shared is None:
        raise ValueError("one of chosen and rejected is the beginning of the other; give each its answer")
    if not shared:
        raise ValueError("chosen and rejected share no turn, so there is no prompt; add a prompt field")
    if "assistant" not in (chosen[shared]["role"], rejected[shared]["role"]):
        raise ValueError(
            f"the prompts of chosen and rejected differ in turn {shared + 1}; give both answers one prompt"
        )
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _check_answer(name: str, answer: _Text) -> None:
    if not answer or (isinstance(answer, str) and not answer.strip()):
        raise ValueError(f"{name} is empty after the shared prompt; give it an answer")
    if isinstance(answer, list) and (answer[0]["role"] != "assistant" or answer[-1]["role"] != "assistant"):
        raise ValueError(f"{name} must start and end with the assistant's turn after the prompt")
