"""A run measured along its way, checkpoint by checkpoint: gain, drift from the reference, forgetting, answers."""

from __future__ import annotations

__all__ = ["PathSettings"]

from pathlib import Path

from pydantic import Field

from ropo.core.settings import Settings


class PathSettings(Settings):
    """What is measured at every checkpoint.

    Attributes:
        pairs: Held-out pairs, as in `ropo.preferences.load_preferences`.
        split: Split of a folder or hub dataset.
        max_pairs: Pairs to use, the first ones.
        prompts: Held-out prompts to answer; None samples nothing. Where each has `instructions`, answers are checked.
        max_prompts: Prompts to use, the first ones.
        samples: Answers per prompt, plain samples of the model, as a KL divergence needs.
        max_new_tokens: Longest answer in tokens.
        text: Plain text whose loss shows forgetting; None leaves it out.
        window: Tokens of a window of it.
        max_windows: Windows to use, the first ones.
        checkpoints: Checkpoints to measure, spread over the run, the last one included; None for all.
        sampled: Of those the ones that answer prompts, spread likewise; None for all.
        bf16: Whether answers are sampled with products in bfloat16 (autocast); everything is scored without: rounding
            moves the loss on text by as much as a cold run does.
        plain_prompts: Whether text prompts stay as they are, past the chat template.
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
