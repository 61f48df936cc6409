"""Judges that say which of two answers is the better one, whatever they are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from ropo.judging.chat import ChatModel, Conversation, Failure, Meter, Reply
from ropo.judging.verdicts import VerdictStore, ask_and_keep
from ropo.lm.prompts import PromptRecord

UNPARSABLE = "unparsable verdict"


@dataclass(frozen=True)
class Duel:
    """Hold a prompt and two answers to it, in the order in which the judge sees them."""

    prompt: PromptRecord
    first: str
    second: str

    def swapped(self) -> Duel:
        """Return the same duel in the other order."""
        return Duel(self.prompt, self.second, self.first)


@dataclass(frozen=True)
class Preference:
    """Hold the probability that the second answer is the better one (0.5 a tie), or why the judge gave none."""

    second: float | None
    reason: str | None = None


@runtime_checkable
class PairJudge(Protocol):
    """Compare two answers, shown in a given order."""

    meter: Meter

    @property
    def name(self) -> str:
        """What records call it."""

    def compare(self, duels: Sequence[Duel], advance: Callable[[int], None]) -> list[Preference]:
        """Return one preference a duel, in order; `advance` is called with the number of duels just judged."""


@dataclass
class ChatJudge:
    """Ask a chat model which answer is better.

    Args:
        chat: The model.
        store: Where its answers are kept.
        question: Turns a duel into a conversation.
        read: Reads the preference out of an answer; None where it holds none.
        meter: Counts calls, tokens, retries and failures; unparsable answers count as failures.
    """

    chat: ChatModel
    store: VerdictStore
    question: Callable[[Duel], Conversation]
    read: Callable[[Reply], float | None]
    meter: Meter = field(default_factory=Meter)

    @property
    def name(self) -> str:
        """Return the model's name."""
        return self.chat.name

    def compare(self, duels: Sequence[Duel], advance: Callable[[int], None]) -> list[Preference]:
        """Return what the model's answers say; see `PairJudge`."""
        conversations = [self.question(duel) for duel in duels]
        answers = ask_and_keep(self.chat, conversations, self.store, self.meter, advance)
        return [self._preference(answer) for answer in answers]

    def _preference(self, answer: Reply | Failure) -> Preference:
        if isinstance(answer, Failure):
            return Preference(None, answer.reason)
        second = self.read(answer)
        if second is None:
            self.meter.count_failure(UNPARSABLE)
            return Preference(None, UNPARSABLE)
        return Preference(second)


def reasons(preferences: Sequence[Preference]) -> dict[str, Any]:
    """Count why there is no verdict."""
    found = [preference.reason for preference in preferences if preference.reason is not None]
    return {reason: found.count(reason) for reason in sorted(set(found))}
