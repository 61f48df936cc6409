"""`ropo cache`: what ropo keeps to be quick the next time, and how to be rid of it."""

from __future__ import annotations

__all__ = ()

import argparse

from ropo.cli.parser import Parser

HELP = "show or clear what can be made again: converted .gguf models, compiled kernels"


def add_arguments(parser: Parser) -> None:
    """Declare the flags."""
    parser.add_argument("--clear", action="store_true", help="delete all of it")


def run(arguments: argparse.Namespace) -> None:
    """List the cache with its sizes, or empty it."""
    from ropo.core.cache import cache_root, clear, gguf_entries, size_of

    root = cache_root()
    if arguments.clear:
        print(f"deleted {_megabytes(clear())} in {root}")
        return
    print(f"{root}: {_megabytes(size_of(root))}")
    entries = [(f"{kind} of {name}", folder) for name, kind, folder in gguf_entries()]
    entries += [("compiled kernels", file) for file in sorted(root.glob("kernels-*"))]
    for name, path in entries:
        print(f"  {_megabytes(size_of(path)):>12}  {name}")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
