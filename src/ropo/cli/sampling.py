"""The flags and the progress bar of the commands that sample answers."""

from __future__ import annotations

__all__ = ()

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ropo.core.errors import UserError

if TYPE_CHECKING:
    from ropo.lm.sampling import SamplingSettings


def add_sampling_arguments(parser: argparse.ArgumentParser, samples: int, temperature: float, top_p: float) -> None:
    """Add the flags that say how answers are sampled, with the command's own defaults."""
    parser.add_argument("--prompts", type=Path, required=True, help="JSON Lines with `prompt` or `instruction`")
    parser.add_argument("--output", type=Path, required=True, help="the JSON Lines file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    parser.add_argument("--samples", type=int, default=samples, help="answers per prompt (default %(default)s)")
    parser.add_argument("--temperature", type=float, default=temperature, help="0 is greedy (default %(default)s)")
    parser.add_argument("--top_p", type=float, default=top_p, help="mass of the nucleus (default %(default)s)")
    parser.add_argument("--max_new_tokens", type=int, default=256, help="longest answer (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default %(default)s)")
    parser.add_argument("--batch_size", type=int, default=96, help="answers decoded at once (default %(default)s)")


def sampling_settings(args: argparse.Namespace) -> SamplingSettings:
    """Check the flags that `add_sampling_arguments` added, before anything is loaded or written."""
    from ropo.lm.sampling import SamplingSettings

    if args.output.is_dir():
        raise UserError(f"output {args.output}: is a folder; name a .jsonl file")
    if args.output.exists() and not args.overwrite:
        raise UserError(f"output {args.output}: exists; choose another name or add --overwrite")
    if args.batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {args.batch_size}; change --batch_size")
    return SamplingSettings(args.samples, args.temperature, args.top_p, args.max_new_tokens, args.seed)
