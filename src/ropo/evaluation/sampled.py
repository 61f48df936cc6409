"""What the suites that sample several answers per prompt share: settings, flags, and where the prompts came from."""

from __future__ import annotations

__all__ = ()

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from ropo.core.errors import UserError
from ropo.core.settings import Settings

if TYPE_CHECKING:
    from ropo.lm.sampling import SamplingSettings


class SampledSettings(Settings):
    """How answers are sampled.

    Attributes:
        prompts: JSON Lines with one prompt a line.
        max_prompts: Prompts to use, the first ones; None uses all.
        samples: Answers per prompt.
        temperature: Divisor of the logits; 0 is greedy.
        top_p: Mass of the nucleus.
        max_new_tokens: Longest answer in tokens.
    """

    prompts: Path
    max_prompts: int | None = Field(None, ge=1)
    samples: int = Field(4, ge=1)
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_new_tokens: int = Field(256, ge=1)

    def sampling(self, seed: int) -> SamplingSettings:
        """Return the settings with a seed, as `ropo.lm.sampling` takes them."""
        from ropo.lm.sampling import SamplingSettings

        return SamplingSettings(self.samples, self.temperature, self.top_p, self.max_new_tokens, seed)


def add_suite_sampling_arguments(
    parser: argparse.ArgumentParser, fields: str, temperature: float = 1.0, top_p: float = 1.0
) -> None:
    """Declare the flags of `SampledSettings`.

    Args:
        parser: The suite's parser.
        fields: What a line of the prompts file needs, in words.
        temperature: The suite's default.
        top_p: The suite's default.
    """
    parser.add_argument("--prompts", type=Path, required=True, help=f"JSON Lines with {fields}")
    parser.add_argument("--max_prompts", type=int, metavar="N", help="prompts to use, the first N (all)")
    parser.add_argument("--samples", type=int, default=4, metavar="N", help="answers per prompt (4)")
    parser.add_argument(
        "--temperature", type=float, default=temperature, help=f"divisor of the logits ({temperature:g})"
    )
    parser.add_argument("--top_p", type=float, default=top_p, help=f"mass of the nucleus ({top_p:g})")
    parser.add_argument("--max_new_tokens", type=int, default=256, metavar="N", help="longest answer in tokens (256)")


def check_prompts_file(arguments: argparse.Namespace) -> None:
    """Refuse a prompts file that is not there."""
    if not arguments.prompts.is_file():
        raise UserError(f"prompts {arguments.prompts}: no such file; check the path")
