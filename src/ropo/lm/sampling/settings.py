"""How answers are sampled, and what one is."""

from __future__ import annotations

__all__ = ["Answer", "SamplingSettings"]

from dataclasses import dataclass

from ropo.core.errors import UserError


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


@dataclass(frozen=True)
class SamplingSettings:
    """The sampling settings that a recorded answer needs to be made again.

    Args:
        samples: Answers per prompt.
        temperature: Divisor of the logits; 0 takes the most likely token.
        top_p: Mass of the nucleus (Holtzman et al., 2020, arXiv 1904.09751); 1 samples from the whole vocabulary.
        max_new_tokens: Longest answer in tokens, the end-of-sequence token included.
        seed: Any non-negative whole number.

    Raises:
        UserError: If a value is outside its range.
    """

    samples: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        _require(self.samples >= 1, "samples", "must be at least 1", self.samples)
        _require(self.temperature >= 0, "temperature", "must be 0 (greedy) or more", self.temperature)
        _require(0 < self.top_p <= 1, "top_p", "must lie in (0, 1]", self.top_p)
        _require(self.max_new_tokens >= 1, "max_new_tokens", "must be at least 1", self.max_new_tokens)
        _require(self.seed >= 0, "seed", "must be 0 or more", self.seed)
        greedy_repeats = self.temperature == 0 and self.samples > 1
        _require(not greedy_repeats, "samples", "must be 1 at temperature 0, where all would be equal", self.samples)


def _require(holds: bool, name: str, rule: str, value: object) -> None:
    if not holds:
        raise UserError(f"{name} {rule}, got {value}; change --{name}")
