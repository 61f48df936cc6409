"""Options that suites share: held-out pairs, plain text, sampled answers; each a field that is also a flag."""

from __future__ import annotations

__all__ = ()

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from ropo.core.settings import Settings

if TYPE_CHECKING:
    from ropo.lm.held_out import HeldOutPairs
    from ropo.lm.sampling import SamplingSettings
    from ropo.lm.tokens import Limits


class HeldOutOptions(Settings):
    """Held-out pairs; what cuts them and weighs their margins is as in the first model's training where it is None."""

    data: str = Field(description="held-out pairs: hub id, folder, or .jsonl, .json, .parquet file")
    split: str = Field("test", description="split of --data, where it has splits")
    max_pairs: int | None = Field(None, ge=1, description="pairs to use, the first N (all)")
    beta: float | None = Field(None, gt=0, description="strength of the pull to the reference (as trained, or 0.1)")
    max_length: int | None = Field(None, ge=2, description="most tokens of prompt and answer (as trained, or 1024)")
    plain_prompts: bool | None = Field(None, description="keep text prompts past the chat template (as trained, or no)")

    def pairs_for(self, source: str, limits: Limits, plain_prompts: bool) -> HeldOutPairs:
        """Read the pairs, tokenised for a model and cut at limits."""
        from ropo.lm.held_out import read_held_out
        from ropo.lm.loading import load_tokenizer

        return read_held_out(self.data, self.split, load_tokenizer(source), limits, self.max_pairs, plain_prompts)


class TextOptions(Settings):
    """How a plain text is read, from its beginning."""

    window: int = Field(512, ge=2, description="tokens of text read together")
    max_windows: int = Field(64, ge=1, description="windows of text at most")


class SampledOptions(Settings):
    """How answers are sampled."""

    prompts: Path = Field(description="JSON Lines with `prompt` or `instruction`")
    max_prompts: int | None = Field(None, ge=1, description="prompts to use, the first N (all)")
    samples: int = Field(4, ge=1, description="answers per prompt")
    temperature: float = Field(1.0, ge=0, description="divisor of the logits")
    top_p: float = Field(1.0, gt=0, le=1, description="mass of the nucleus")
    max_new_tokens: int = Field(256, ge=1, description="longest answer in tokens")

    def sampling(self, seed: int) -> SamplingSettings:
        """Return the settings with a seed, as `ropo.lm.sampling` takes them."""
        from ropo.lm.sampling import SamplingSettings

        return SamplingSettings(self.samples, self.temperature, self.top_p, self.max_new_tokens, seed)
