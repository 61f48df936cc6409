"""What a judge that answers in words is: a chat model behind one small protocol, and a count of what it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Protocol, runtime_checkable

from ropo.lm.prompts import Turn

Conversation = Sequence[Turn]
UNPARSABLE = "unparsable verdict"
CUT = "cut before its verdict"


@dataclass(frozen=True)
class Reply:
    """Hold what a chat model answered.

    Args:
        text: The answer, which may be nonsense; empty only where it was cut while the judge was still thinking.
        prompt_tokens: Tokens read; None where the model does not say.
        completion_tokens: Tokens written; None where the model does not say.
        first_token: Log-probabilities of the likeliest first tokens, where they were asked for and given.
        cut: Whether it was cut at the longest answer.
    """

    text: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    first_token: dict[str, float] | None = None
    cut: bool = False


@dataclass(frozen=True)
class Failure:
    """Say in a few words why there is no answer, and whether the cause may pass."""

    reason: str
    passing: bool = False


@dataclass
class Meter:
    """Count what a judge was asked and what it cost; safe in many threads.

    Args:
        calls: Answers that were received now, and perhaps paid for.
        kept: Answers that an earlier run had kept on disk.
        retries: Attempts that failed and were made again, by reason.
        failures: Questions that stayed without an answer, by reason.
        prompt_tokens: Tokens read for the answers received now.
        completion_tokens: Tokens written for them.
        uncounted: Answers received now whose tokens the model did not tell.
    """

    calls: int = 0
    kept: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0
    _lock: Any = field(default_factory=Lock, repr=False, compare=False)

    def count_reply(self, reply: Reply) -> None:
        """Count an answer received now."""
        with self._lock:
            self.calls += 1
            self.prompt_tokens += reply.prompt_tokens or 0
            self.completion_tokens += reply.completion_tokens or 0
            self.uncounted += reply.prompt_tokens is None or reply.completion_tokens is None

    def count_call(self) -> None:
        """Count a verdict given now by a judge that reads and writes no tokens."""
        with self._lock:
            self.calls += 1

    def count_kept(self, verdicts: int = 1) -> None:
        """Count answers read from disk."""
        with self._lock:
            self.kept += verdicts

    def count_retry(self, reason: str) -> None:
        """Count an attempt that failed and is made again."""
        with self._lock:
            self.retries[reason] += 1

    def count_failure(self, reason: str) -> None:
        """Count a question that stayed without an answer."""
        with self._lock:
            self.failures[reason] += 1

    @property
    def missing(self) -> tuple[int, int]:
        """How many questions stayed without a verdict, and how many were asked or kept in all."""
        unread = sum(count for reason, count in self.failures.items() if reason in (UNPARSABLE, CUT))
        return self.failures.total(), self.calls + self.kept + self.failures.total() - unread

    def summary(self, input_price: float | None, output_price: float | None) -> dict[str, Any]:
        """Return the counts as JSON, with the cost of this run's calls where prices are known.

        Args:
            input_price: Price of a million tokens read.
            output_price: Price of a million tokens written.
        """
        priced = input_price is not None and output_price is not None
        cost = (self.prompt_tokens * (input_price or 0.0) + self.completion_tokens * (output_price or 0.0)) / 1e6
        return {
            "calls": self.calls,
            "kept": self.kept,
            "retries": dict(sorted(self.retries.items())),
            "failures": dict(sorted(self.failures.items())),
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "answers_without_token_count": self.uncounted,
            "cost": cost if priced else None,
        }


@runtime_checkable
class ChatModel(Protocol):
    """Answer conversations, each on its own."""

    @property
    def name(self) -> str:
        """What records call it."""

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that its answers depend on beside the conversation, as JSON; never a key."""

    def ask(
        self, conversations: Sequence[Conversation], keep: Callable[[int, Reply], None], meter: Meter
    ) -> Iterator[tuple[int, Reply | Failure]]:
        """Yield the number of each conversation with its answer, as they come.

        Args:
            conversations: Turns that end with the user's.
            keep: Called with each answer before it is yielded, perhaps in another thread, also for answers that
                arrive after the caller was interrupted.
            meter: Counts retries and failures; answers are the caller's to count.
        """
