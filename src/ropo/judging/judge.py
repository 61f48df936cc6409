"""What a judge is, what it says and how that is kept: one protocol for all, one type and one store for verdicts."""

from __future__ import annotations

__all__ = [
    "CUT",
    "MANY",
    "UNPARSABLE",
    "WARNING",
    "Duel",
    "Judge",
    "Meter",
    "OrderCheck",
    "check_orders",
    "count_read",
    "count_reasons",
    "notes_on_reading",
    "warnings_first",
]

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ropo.core.files import write_atomically
from ropo.core.kept import content_key
from ropo.judging.reading import SOURCES
from ropo.lm.prompts import PromptRecord

UNPARSABLE, CUT = "unparsable verdict", "cut before its verdict"
WARNING = "WARNING: "  # notes that begin so are printed on standard error too
MANY = 0.1  # share of missing verdicts from which it is said loudly


@dataclass(frozen=True)
class Duel:
    """A prompt and two answers to it, in the order in which the judge sees them."""

    prompt: PromptRecord
    first: str
    second: str

    def swapped(self) -> Duel:
        """Return the same duel in the other order."""
        return Duel(self.prompt, self.second, self.first)


@dataclass(frozen=True)
class Verdict:
    """What a judge decided, or why it decided nothing.

    Args:
        value: A grade of one answer, or the probability that the second of two is the better one (0.5 a tie); None
            without a verdict.
        reason: Why there is none.
        source: What it was read from, of `ropo.judging.reading`; None where the judge writes nothing.
        said: What the judge wrote; None where it writes nothing, or there was no reply.
    """

    value: float | None
    reason: str | None = None
    source: str | None = None
    said: str | None = None


@dataclass
class Meter:
    """Count what a judge was asked and what it cost; safe in many threads.

    Args:
        calls: Answers that were received now, and perhaps paid for.
        kept: Answers that an earlier run had kept on disk.
        given: Verdicts that were given; equal questions share an answer, and have a verdict each.
        retries: Attempts that failed and were made again, by reason.
        failures: Verdicts that are missing, by reason.
        prompt_tokens: Tokens read for the answers received now.
        completion_tokens: Tokens written for them.
        uncounted: Answers received now whose tokens the model did not tell.
    """

    calls: int = 0
    kept: int = 0
    given: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0
    _lock: Any = field(default_factory=Lock, repr=False, compare=False)

    def count_call(self, read: int | None = 0, written: int | None = 0) -> None:
        """Count an answer received now, with its tokens; None where the judge does not tell them."""
        with self._lock:
            self.calls += 1
            self.prompt_tokens += read or 0
            self.completion_tokens += written or 0
            self.uncounted += read is None or written is None

    def count_kept(self) -> None:
        """Count an answer read from disk."""
        with self._lock:
            self.kept += 1

    def count_retry(self, reason: str) -> None:
        """Count an attempt that failed and is made again."""
        with self._lock:
            self.retries[reason] += 1

    def count_given(self) -> None:
        """Count a verdict."""
        with self._lock:
            self.given += 1

    def count_failure(self, reason: str, count: int = 1) -> None:
        """Count verdicts that are missing."""
        with self._lock:
            self.failures[reason] += count

    @property
    def answered(self) -> int:
        """How many answers there are, now received or kept."""
        return self.calls + self.kept

    @property
    def missing(self) -> tuple[int, int]:
        """How many verdicts are missing, and how many were asked for."""
        return self.failures.total(), self.given + self.failures.total()

    @property
    def why(self) -> str:
        """Why verdicts are missing, with counts."""
        return ", ".join(f"{count} {reason}" for reason, count in sorted(self.failures.items()))

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


class VerdictStore:
    """Keep each verdict in a small JSON file of its own, named by a hash of what was asked and of whom.

    Why not `ropo.core.kept`: its journals have one writer and a fixed order, while here many threads, and several runs
    that share a cache, write in the order in which answers arrive. Why not `diskcache`, which allows that: its SQLite
    files lock badly on network folders, and a verdict that was paid for should be readable with any editor.

    Args:
        folder: Where they are kept; made when the first is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, asked: dict[str, Any]) -> Any:
        """Return the answer kept for a question, or None; a file that cannot be read counts as none.

        Args:
            asked: Everything that the answer depends on, as JSON.
        """
        try:
            return json.loads(self._file(asked).read_text(encoding="utf-8"))["reply"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, asked: dict[str, Any], reply: Any) -> None:
        """Keep an answer, as JSON, beside its question, whole or not at all."""
        text = json.dumps({**asked, "reply": reply}, ensure_ascii=False)
        write_atomically(self._file(asked), text, on_disk=False)  # thousands may come; one torn is asked again

    def _file(self, asked: dict[str, Any]) -> Path:
        key = content_key(asked)
        return self.folder / key[:2] / f"{key}.json"


@runtime_checkable
class Judge(Protocol):
    """Grade answers one by one, or say which of two is better.

    Attributes:
        meter: Counts what is asked; a caller that counts a part on its own puts a fresh one in its place.
    """

    meter: Meter

    @property
    def name(self) -> str:
        """What records call it."""

    @property
    def longest(self) -> int | None:
        """Its longest verdict in tokens; None where it writes nothing."""

    def check(self, prompt: PromptRecord) -> None:
        """Raise `UserError` for a prompt that it cannot judge, where that is known without an answer."""

    def grade(self, prompt: PromptRecord, answers: Sequence[str]) -> list[Verdict]:
        """Return a number for each answer to a prompt, in order; higher is better.

        Raises:
            UserError: If the judge fails.
        """

    def prefer(self, duels: Sequence[Duel], advance: Callable[[int], None]) -> list[Verdict]:
        """Return the probability that the second answer is better for each duel, in order.

        Args:
            duels: Pairs of answers.
            advance: Called with the number of duels just judged; for a progress bar.

        Raises:
            UserError: If the judge fails.
        """


@dataclass(frozen=True)
class OrderCheck:
    """What the two orders of some duels gave.

    Args:
        agree: For each duel judged in both orders, whether the same answer (or a tie) won in both.
        first_preferred: For each, the mean probability that the answer shown first won, 0.5 without bias.
        missing: Duels without a verdict in one of the orders, which neither number is over.
    """

    agree: np.ndarray
    first_preferred: np.ndarray
    missing: int


def check_orders(shown: Sequence[Verdict], swapped: Sequence[Verdict]) -> OrderCheck:
    """Compare the verdicts on the same duels in both orders.

    A judge that looks only at the position has agreement 0 and prefers the first with probability 0 or 1.

    Args:
        shown: Verdicts in one order.
        swapped: Verdicts on the same duels in the other order.
    """
    agree, first = [], []
    for one, other in zip(shown, swapped, strict=True):
        if one.value is None or other.value is None:
            continue
        agree.append(np.sign(one.value - 0.5) == -np.sign(other.value - 0.5))
        first.append(1.0 - (one.value + other.value) / 2.0)
    return OrderCheck(np.array(agree, dtype=bool), np.array(first, dtype=float), len(shown) - len(agree))


def count_reasons(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Count why there is no verdict."""
    return dict(sorted(Counter(each.reason for each in verdicts if each.reason is not None).items()))


def count_read(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Count what verdicts were read from, and why others could not be; empty where the judge writes no words."""
    sources = Counter(each.source for each in verdicts if each.source is not None and each.reason is None)
    return {**dict(sorted(sources.items())), **count_reasons(verdicts)}


def notes_on_reading(name: str, read: Mapping[str, int]) -> list[str]:
    """Say how the verdicts on a model were read, and loudly where many could not be."""
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


def warnings_first(notes: Sequence[str]) -> list[str]:
    """Return notes in their order, but those that are loud before the others."""
    return sorted(notes, key=lambda note: not note.startswith(WARNING))
