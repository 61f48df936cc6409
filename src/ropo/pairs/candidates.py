"""The values that pair selection works on."""

from __future__ import annotations

__all__ = ()

from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """One scored answer: its text, length in tokens, whether the model ended it, and its score."""

    text: str
    tokens: int
    finished: bool
    score: float


@dataclass(frozen=True)
class Pair:
    """A chosen and a rejected answer to prompt number `prompt`; the chosen one has the higher score."""

    prompt: int
    chosen: Candidate
    rejected: Candidate

    @property
    def extra_tokens(self) -> int:
        """Tokens by which the chosen answer is longer than the rejected one."""
        return self.chosen.tokens - self.rejected.tokens
