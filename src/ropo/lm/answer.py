"""One answer of a model, as everything here that reads answers takes it."""

from __future__ import annotations

__all__ = ["Answer"]

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """One sampled answer.

    Args:
        text: Without special tokens, stripped.
        tokens: Its token ids, the end-of-sequence token included.
        finished: Whether the model ended it; otherwise it was cut at the longest length.
    """

    text: str
    tokens: tuple[int, ...]
    finished: bool
