"""The flag of the commands that run an adapter at another strength than it was trained to."""

from __future__ import annotations

__all__ = ()

import argparse


def add_strength(parser: argparse.ArgumentParser) -> None:
    """Declare the flag."""
    parser.add_argument(
        "--strength",
        metavar="T",
        help="how far the adapter is turned, 0 (the base model) to 2; as DIR@T (1, as it was trained)",
    )


def at_strength(source: str, strength: str | None) -> str:
    """Return the model's name with the strength of the flag, and check it before anything is loaded.

    Raises:
        UserError: If the strength is none, the model names one already, or it is no adapter.
    """
    from ropo.core.errors import UserError
    from ropo.lm.adapters import is_adapter
    from ropo.lm.strength import with_strength

    if strength is None:
        return source
    if not is_adapter(source):
        raise UserError(f"--strength: {source} is no PEFT adapter, and only an adapter has a strength; leave it out")
    return with_strength(source, strength)
