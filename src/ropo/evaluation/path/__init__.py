"""A run measured along its way, checkpoint by checkpoint: gain, drift from the reference, forgetting, answers."""

from __future__ import annotations

__all__ = ["PathSettings"]

from pathlib import Path

from pydantic import Field

from ropo.core.settings import Settings


class PathSettings(Settings):
    """What is measured at every checkpoint.

    Answers are plain samples of the model, as a KL divergence needs. With `bf16` they are sampled with products in
    bfloat16 (autocast), and scored without: rounding moves the loss on text by as much as a cold run does.
    """

    pairs: str = Field(description="held-out pairs: DPO loss, margin, log-probs")
    split: str = Field("test", description="split of --pairs, where it has splits")
    max_pairs: int = Field(64, ge=1, description="pairs to use, the first N")
    beta: float | None = Field(None, gt=0, description="strength of the pull to the reference (as trained)")
    prompts: Path | None = Field(None, description="prompts to answer: KL, pass rate, length, variety")
    max_prompts: int = Field(48, ge=1, description="prompts to use, the first N")
    samples: int = Field(1, ge=1, description="answers per prompt, at temperature 1")
    max_new_tokens: int = Field(96, ge=1, description="longest answer in tokens")
    text: Path | None = Field(None, description="plain text: the loss that shows forgetting")
    window: int = Field(256, ge=2, description="tokens of a window of the text")
    max_windows: int = Field(8, ge=1, description="windows to use, the first N")
    checkpoints: int | None = Field(None, ge=1, description="checkpoints to measure, spread evenly (all)")
    sampled: int | None = Field(None, ge=0, description="of those, how many answer prompts (all)")
    bf16: bool = Field(False, description="sample in bfloat16 (autocast); scoring stays as it is")
    plain_prompts: bool | None = Field(None, description="keep text prompts past the chat template (as trained)")
