"""Judges that say which of two answers is the better one, whatever they are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from ropo.judging.chat import CUT, UNPARSABLE, ChatModel, Conversation, Failure, Meter, Reply
from ropo.judging.reading import SOURCES
from ropo.judging.verdicts import VerdictStore, ask_and_keep
from ropo.lm.prompts import PromptRecord

MANY = 0.1  # share of missing verdicts from which it is said loudly
WARNING = "WARNING: "  # notes that begin so are printed on standard error too


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
    """Hold the probability that the second answer is the better one (0.5 a tie), or why the judge gave none.

    Args:
        second: The probability.
        reason: Why there is none.
        source: What it was read from, of `ropo.judging.reading`; None where the judge writes nothing.
    """

    second: float | None
    reason: str | None = None
    source: str | None = None


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
        read: Reads the preference out of an answer, and says from what; None where it holds none.
        meter: Counts calls, tokens, retries and failures; unparsable answers count as failures.
    """

    chat: ChatModel
    store: VerdictStore
    question: Callable[[Duel], Conversation]
    read: Callable[[Reply], tuple[float, str] | None]
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
        found = self.read(answer)
        if found is None:
            reason = unread(answer)
            self.meter.count_failure(reason)
            return Preference(None, reason)
        return Preference(found[0], source=found[1])


def unread(reply: Reply) -> str:
    """Say why a reply holds no verdict."""
    return CUT if reply.cut else UNPARSABLE


def reasons(preferences: Sequence[Preference]) -> dict[str, Any]:
    """Count why there is no verdict."""
    found = [preference.reason for preference in preferences if preference.reason is not None]
    return {reason: found.count(reason) for reason in sorted(set(found))}


def count_read(preferences: Sequence[Preference]) -> dict[str, int]:
    """Count what verdicts were read from, and why others could not be; empty where the judge writes no words."""
    found = Counter(each.reason or each.source for each in preferences)
    return {name: count for name, count in sorted(found.items(), key=str) if name is not None}


def notes_on_reading(name: str, read: Mapping[str, int]) -> list[str]:
    """Say how the verdicts on a model were read, and loudly where many could not be.

    Args:
        name: The model.
        read: What `count_read` gave.
    """
    total, reasons = sum(read.values()), {why: count for why, count in read.items() if why not in SOURCES}
    if not total:
        return []
    missing = sum(reasons.values())
    sources = ", ".join(f"{read.get(source, 0)} from {source}" for source in SOURCES)
    notes = [f"{name}: verdicts were read {sources}; {missing} of {total} are missing"]
    if missing >= MANY * total:
        why = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        mend = "give a larger --judge_max_tokens" if CUT in reasons else "see what the judge says, or take another"
        notes.insert(0, f"{WARNING}{name}: {missing} of {total} verdicts are missing ({why}); {mend}")
    return notes
