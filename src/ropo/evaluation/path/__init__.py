"""A run measured along its way, checkpoint by checkpoint: gain, drift from the reference, forgetting, answers."""

from __future__ import annotations

__all__ = ["PathSettings"]

from pathlib import Path

from pydantic import Field

from ropo.core.settings import Settings


class PathSettings(Settings):
    """What is measured at every checkpoint; the flags of `ropo path` say what each of them is.

    Answers are plain samples of the model, as a KL divergence needs. With `bf16` they are sampled with products in
    bfloat16 (autocast), and scored without: rounding moves the loss on text by as much as a cold run does.
    """

    pairs: str
    split: str = "test"
    max_pairs: int = Field(64, ge=1)
    prompts: Path | None = None
    max_prompts: int = Field(48, ge=1)
    samples: int = Field(1, ge=1)
    max_new_tokens: int = Field(96, ge=1)
    text: Path | None = None
    window: int = Field(256, ge=2)
    max_windows: int = Field(8, ge=1)
    checkpoints: int | None = Field(None, ge=1)
    sampled: int | None = Field(None, ge=0)
    bf16: bool = False
    plain_prompts: bool = False
