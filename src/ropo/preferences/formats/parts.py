"""Readers of a record's parts: its question, and its two answers. Pure functions of the record's columns."""

from __future__ import annotations

__all__ = ()

from collections.abc import Callable, Mapping
from typing import Any

from ropo.preferences.formats.columns import says_nothing
from ropo.preferences.formats.turns import (
    CALLS,
    OTHER_ASSISTANTS,
    Messages,
    answer_of,
    before,
    check_plain,
    kind,
    message_of,
    messages_of,
    pairs_of_turns,
    parsed,
    system_of,
    user,
)

_Record = Mapping[str, Any]
_Answers = tuple[Any, Any]


# Questions


def _alpaca_instruction_of(record: _Record) -> Any:
    """Read Alpaca's `instruction`, and its `input` on the next line, as LLaMA-Factory and ms-swift join them."""
    return "\n".join(
        _text(name, record[name]) for name in ("instruction", "input") if not says_nothing(record.get(name))
    )


def _conversation_of(record: _Record) -> Messages:
    """Read the turns of `messages`, `conversations` or `conversation`, whichever there is."""
    name = next(name for name in ("messages", "conversations", "conversation") if record.get(name))
    turns = parsed(name, record[name])
    if (
        isinstance(turns, list)
        and turns
        and isinstance(turns[0], dict)
        and not {"from", "role", "content"} & set(turns[0])
    ):
        return pairs_of_turns(name, turns)
    return messages_of(name, turns)


def _open_conversation_of(record: _Record) -> Messages:
    """Read a conversation that is to be answered.

    Raises:
        ValueError: If its last turn is the assistant's.
    """
    turns = _conversation_of(record)
    if turns[-1].get("role") == "assistant":
        raise ValueError(
            "the conversation ends with the assistant's turn, so it is unclear what is to be answered; end it with the "
            "user's turn"
        )
    return turns


def earlier_turns_of(record: _Record) -> Messages:
    """Read a conversation without its last turn, which is the answer."""
    turns = _conversation_of(record)
    if len(turns) < 2 or turns[-1].get("role") != "assistant":
        raise ValueError(
            "the conversation must end with the assistant's turn, which is the chosen answer, after others"
        )
    return turns[:-1]


# What reads the question, by the column that it is in.
QUESTION_READERS: dict[str, Callable[[_Record], Any]] = {
    "prompt": lambda record: answer_of("prompt", record["prompt"]),
    "instruction": _alpaca_instruction_of,
    "question": lambda record: _text("question", record["question"]),
    "query": lambda record: _text("query", record["query"]),
    **dict.fromkeys(("messages", "conversations", "conversation"), _open_conversation_of),
}


# Answers


def chosen_and_rejected(record: _Record) -> _Answers:
    """Read `chosen` and `rejected`: texts, one turn each, or lists of turns."""
    return answer_of("chosen", record["chosen"]), answer_of("rejected", record["rejected"])


def chosen_and_rejected_turns(record: _Record) -> _Answers:
    """Read `chosen` and `rejected` to a conversation: one turn each, lists of turns, or the text of one."""
    chosen, rejected = chosen_and_rejected(record)
    return _as_turns(chosen), _as_turns(rejected)


def responses(record: _Record) -> _Answers:
    """Read axolotl's and Argilla's `chosen_response` and `rejected_response`."""
    return _text("chosen_response", record["chosen_response"]), _text("rejected_response", record["rejected_response"])


def response_and_rejected(record: _Record) -> _Answers:
    """Read ms-swift's `response` (or Alpaca's `output`) and `rejected_response`."""
    name = "response" if "response" in record else "output"
    return _text(name, record[name]), _text("rejected_response", record["rejected_response"])


def last_turn_and_rejected(record: _Record) -> _Answers:
    """Read ms-swift's last turn of `messages`, and the `rejected_response` to put in its place."""
    rejected = answer_of("rejected_response", record["rejected_response"])
    return [_conversation_of(record)[-1]], _as_turns(rejected)


def both_conversations(record: _Record) -> _Answers:
    """Read ms-swift's `messages` and `rejected_messages`: whole conversations that share their beginning."""
    return _conversation_of(record), messages_of(
        "rejected_messages", parsed("rejected_messages", record["rejected_messages"])
    )


def list_of_two(record: _Record) -> _Answers:
    """Read LLaMA-Factory's older ranking: `output` is [chosen, rejected]."""
    output = parsed("output", record["output"]) if str(record["output"]).startswith("[") else record["output"]
    if not (isinstance(output, list) and len(output) == 2):
        raise ValueError(f"output must be a list of two answers, chosen and rejected, not {kind(output)}")
    return _text("output", output[0]), _text("output", output[1])


def preferred_of_two(record: _Record) -> _Answers:
    """Read AlpacaFarm's `output_1`, `output_2` and the number of the better one in `preference`."""
    first, second = _text("output_1", record["output_1"]), _text("output_2", record["output_2"])
    preference = str(record["preference"]).removesuffix(".0")
    if preference not in ("1", "2"):
        raise ValueError(
            f"preference must be 1 or 2, whichever output is the better one, not {kind(record['preference'])}"
        )
    return (first, second) if preference == "1" else (second, first)


# What becomes of them


def with_question(record: _Record, question: Any, chosen: Any, rejected: Any) -> dict[str, Any]:
    """Return TRL's record of a question, its answers, and what stands beside them.

    A system's message, earlier turns, tools and template options belong to conversations: beside them a text question
    is the user's turn, and text answers are the assistant's.
    """
    options, beside = options_of(record), _beside(record)
    if isinstance(question, str) and is_whole(chosen):
        return {"prompt": question, **without_question(record, chosen, rejected)}
    if isinstance(question, str) and (beside or options):
        question, chosen, rejected = [user(question)], _as_turns(chosen), _as_turns(rejected)
    if isinstance(question, list) and beside:
        question = before(record, question)
    return {"prompt": question, "chosen": chosen, "rejected": rejected, **options}


def is_whole(answer: Any) -> bool:
    """Tell whether an answer is a conversation that starts before the answer."""
    first = answer[0] if isinstance(answer, list) and answer else None
    named = first.get("role", first.get("from")) if isinstance(first, dict) else "assistant"
    return named not in ("assistant", *OTHER_ASSISTANTS, *CALLS)


def without_question(record: _Record, chosen: Any, rejected: Any) -> dict[str, Any]:
    """Return TRL's record of answers that begin with their prompt.

    Raises:
        ValueError: If something belongs before the prompt of plain texts, which nobody can tell from the answer.
    """
    options, beside = options_of(record), _beside(record)
    if isinstance(chosen, str) and (beside or options):
        name = [*beside, *options][0]
        raise ValueError(f"has a column {name!r} but texts without a prompt, where it has no place; add a prompt field")
    if beside and isinstance(chosen, list) and isinstance(rejected, list):
        chosen, rejected = before(record, chosen), before(record, rejected)
    return {"chosen": chosen, "rejected": rejected, **options}


def check_copy(record: _Record, pair: Mapping[str, Any]) -> None:
    """Check that `messages` beside a prompt and answers only repeats them, as in UltraFeedback's binarized form."""
    if not record.get("messages"):
        return
    said = {_plain(turn) for value in pair.values() if isinstance(value, list) for turn in value}
    said |= {value.strip() for value in pair.values() if isinstance(value, str)}
    answered = "chosen" in pair
    for turn in _conversation_of(record):
        if (answered or turn.get("role") != "assistant") and _plain(turn) not in said:
            raise ValueError(
                f"has the columns 'prompt' and 'messages', and only the latter says {_plain(turn)[:40]!r}; keep one"
            )


def _plain(turn: Any) -> str:
    return str(turn.get("content")).strip() if isinstance(turn, Mapping) else ""


def options_of(record: _Record) -> dict[str, Any]:
    """Return what the chat template gets beside the messages: `tools` and `chat_template_kwargs`, where they are.

    Raises:
        ValueError: If they are of another type, or their JSON is not valid.
    """
    tools, options = record.get("tools"), record.get("chat_template_kwargs")
    listed = parsed("tools", tools)
    if listed is not None and not isinstance(listed, list):
        raise ValueError(f"tools must be a list, not {kind(listed)}")
    named = parsed("chat_template_kwargs", options)
    if named is not None and not isinstance(named, dict):
        raise ValueError(f"chat_template_kwargs must be an object, not {kind(named)}")
    return {**({"tools": tools} if listed else {}), **({"chat_template_kwargs": named} if named else {})}


def _as_turns(answer: Any) -> Any:
    """Return a text answer as the assistant's turn."""
    return [message_of("answer", {"role": "assistant", "content": answer})] if isinstance(answer, str) else answer


def refuse_beside(record: _Record) -> None:
    """Refuse what stands beside a dialogue that is one text."""
    if beside := [*_beside(record), *options_of(record)]:
        raise ValueError(
            f"has a column {beside[0]!r} beside a dialogue that is one text; write the dialogue as messages"
        )


def _beside(record: _Record) -> list[str]:
    system = system_of(record)
    named = [name for name in ("system", "system_prompt") if system and record.get(name)]
    return [*named, *(["history"] if parsed("history", record.get("history")) else [])]


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, not {kind(value)}")
    check_plain(name, value)
    return value
