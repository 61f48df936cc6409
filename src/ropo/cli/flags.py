"""Flags that several commands have, and what is checked of them before anything is loaded or written."""

from __future__ import annotations

__all__ = ()

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ropo.core.errors import UserError

if TYPE_CHECKING:
    from ropo.lm.sampling import SamplingSettings


def check_new_file(flag: str, file: Path, overwrite: bool, kind: str) -> None:
    """Refuse a file to write that is a folder, or that is there already and may not be replaced."""
    if file.is_dir():
        raise UserError(f"{flag} {file}: is a folder; name a {kind} file")
    if file.exists() and not overwrite:
        raise UserError(f"{flag} {file}: the file exists; choose another name or add --overwrite")


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
    """Check the flags that `add_sampling_arguments` added."""
    from ropo.lm.sampling import SamplingSettings

    check_new_file("output", args.output, args.overwrite, ".jsonl")
    if args.batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {args.batch_size}; change --batch_size")
    return SamplingSettings(args.samples, args.temperature, args.top_p, args.max_new_tokens, args.seed)


def add_strength(parser: argparse.ArgumentParser) -> None:
    """Declare the flag that runs an adapter at another strength than it was trained to."""
    parser.add_argument(
        "--strength",
        metavar="T",
        help="how far the adapter is turned, 0 (the base model) to 2; as DIR@T (1, as it was trained)",
    )


def at_strength(source: str, strength: str | None) -> str:
    """Return the model's name with the strength of the flag.

    Raises:
        UserError: If the strength is none, the model names one already, or it is no adapter.
    """
    from ropo.lm.adapters import is_adapter
    from ropo.lm.strength import with_strength

    if strength is None:
        return source
    if not is_adapter(source):
        raise UserError(f"--strength: {source} is no PEFT adapter, and only an adapter has a strength; leave it out")
    return with_strength(source, strength)
