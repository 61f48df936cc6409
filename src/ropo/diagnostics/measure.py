"""The base of every measured result: typed, immutable, and never NaN or infinite."""

from __future__ import annotations

__all__ = ["Measure", "mean"]

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict


class Measure(BaseModel):
    """Measured numbers; a number that is undefined for the input is None, and NaN or infinity is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean of at least one value."""
    return sum(values) / len(values)
