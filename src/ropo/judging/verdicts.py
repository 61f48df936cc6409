"""Every answer of a judge kept on disk: a killed run repeats no call that was answered."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ropo.core.kept import content_key
from ropo.judging.chat import ChatModel, Conversation, Failure, Meter, Reply


class VerdictStore:
    """Keep answers in one small file each, named by a hash of judge and conversation.

    Files instead of one journal, because many threads, and several runs at once, write here.

    Args:
        folder: Where they are kept; made when the first is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> Reply | None:
        """Return the answer kept under a key, or None; a file that cannot be read counts as none."""
        try:
            return Reply(**json.loads(self._file(key).read_text(encoding="utf-8"))["reply"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: str, reply: Reply, **context: Any) -> None:
        """Keep an answer, whole or not at all, beside what it answers."""
        file = self._file(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f"{key}.{os.getpid()}.{threading.get_ident()}.tmp")
        unfinished.write_text(json.dumps({**context, "reply": asdict(reply)}, ensure_ascii=False), encoding="utf-8")
        os.replace(unfinished, file)

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def ask_and_keep(
    chat: ChatModel,
    conversations: Sequence[Conversation],
    store: VerdictStore,
    meter: Meter,
    advance: Callable[[int], None] = lambda answers: None,
) -> list[Reply | Failure]:
    """Return the answers to conversations, from disk where an earlier run kept them.

    Args:
        chat: The judge.
        conversations: What to ask; equal ones are asked once.
        store: Where answers are kept. Failures are not: the next run asks again.
        meter: Counts kept answers, calls, retries and failures.
        advance: Called with the number of conversations just answered; for a progress bar.

    Returns:
        One answer or failure a conversation, in their order.
    """
    keys = [content_key({"judge": chat.identity, "turns": list(turns)}) for turns in conversations]
    answers: dict[str, Reply | Failure] = {}
    open_keys: list[str] = []
    for key in dict.fromkeys(keys):
        kept = store.get(key)
        if kept is None:
            open_keys.append(key)
        else:
            answers[key] = kept
            meter.count_kept()
    advance(sum(key in answers for key in keys))
    asked = [conversations[keys.index(key)] for key in open_keys]

    def keep(number: int, reply: Reply) -> None:
        store.put(open_keys[number], reply, judge=chat.identity, turns=list(asked[number]))
        meter.count_reply(reply)

    if asked:
        for number, answer in chat.ask(asked, keep, meter):
            answers[open_keys[number]] = answer
            advance(keys.count(open_keys[number]))
    return [answers[key] for key in keys]
