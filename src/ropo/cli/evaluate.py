"""`ropo evaluate`: measure one or many models or adapters with a suite."""

from __future__ import annotations

__all__ = ()

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ropo.cli.extras import libraries_of
from ropo.cli.parser import Parser
from ropo.core.errors import UserError
from ropo.core.names import did_you_mean
from ropo.core.progress import show_progress

if TYPE_CHECKING:
    from rich.console import Console

    from ropo.evaluation.suites import Suite

HELP = "measure models: preference, knowledge, diversity, instructions, strength, alpaca-eval, mt-bench"
CACHE = "cache"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the suite; its own flags follow once it is known."""
    from ropo.evaluation.suites import SUITES

    parser.usage = f"{parser.prog} SUITE MODEL_OR_ADAPTER ... --output DIR [flags]"
    parser.epilog = f"`{parser.prog} SUITE --help` tells the flags of a suite."
    parser.add_argument("suite", metavar="SUITE", help=", ".join(SUITES))
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="MODEL", help="the models and the suite's flags")


def run(arguments: argparse.Namespace) -> None:
    """Evaluate, print the table and write `results.json`; an interrupted run continues where it stopped."""
    from ropo.evaluation.suites import SUITES, load_suite

    if arguments.suite not in SUITES:
        hint = did_you_mean(arguments.suite, SUITES) or f"; choose from {', '.join(SUITES)}"
        raise UserError(f"there is no suite {arguments.suite!r}{hint}")
    with libraries_of("evaluation", f"suite {arguments.suite}"):
        _run_suite(arguments.suite, load_suite(arguments.suite), arguments.rest)


def _run_suite(name: str, suite: Suite, rest: list[str]) -> None:
    """Parse the suite's flags and run it."""
    flags = suite_flags(name, suite, rest)

    import ropo  # noqa: F401  registers the adapter
    from ropo.cli.quiet import quiet_libraries
    from ropo.evaluation.contestants import parse_contestants
    from ropo.evaluation.results import FILE_NAME
    from ropo.evaluation.suites import Workplace, run_suite
    from ropo.evaluation.table import print_results

    quiet_libraries()
    contestants = parse_contestants(flags.models)
    settings = suite.read_settings(flags)
    workplace = Workplace(
        flags.cache or flags.output / CACHE, flags.seed, flags.batch_size, show_progress, flags.output
    )
    result = run_suite(name, contestants, settings, workplace)
    flags.output.mkdir(parents=True, exist_ok=True)
    result.write(flags.output)
    print_results(result, console_of_tables())
    for note in result.notes:
        if note.startswith("WARNING"):
            print(note, file=sys.stderr)
    print(f"written to {flags.output / FILE_NAME}")


def console_of_tables() -> Console:
    """Return a console that is wide where it is a pipe: a table cut to 80 columns would lose its numbers."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=160)


def suite_flags(name: str, suite: Suite, given: list[str]) -> argparse.Namespace:
    """Parse the flags of a suite, and check those that all have."""
    parser = Parser(prog=f"ropo evaluate {name}", description=suite.HELP)
    add_common_arguments(parser)
    suite.add_arguments(parser)
    flags = parser.parse_args(given)
    check_common_flags(flags)
    return flags


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of every suite."""
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL_OR_ADAPTER",
        help="hub id, folder, .gguf file, adapter folder or DIR@STRENGTH, or NAME= and one of those; the first is the "
        "reference",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for results.json")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier results.json there")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="folder of kept answers and scores (OUTPUT/cache)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of every random draw (0)")
    parser.add_argument(
        "--batch_size", type=int, default=32, metavar="N", help="answers or texts that go through a model at once (32)"
    )


def check_common_flags(flags: argparse.Namespace) -> None:
    """Find mistakes in the common flags before anything is loaded or written."""
    from ropo.evaluation.results import FILE_NAME

    output = flags.output
    if output.exists() and not output.is_dir():
        raise UserError(f"output {output}: is a file; name a folder")
    if (output / FILE_NAME).exists() and not flags.overwrite:
        raise UserError(f"output {output}: has a {FILE_NAME} already; choose another folder or add --overwrite")
    if flags.cache is not None and flags.cache.exists() and not flags.cache.is_dir():
        raise UserError(f"cache {flags.cache}: is a file; name a folder")
    if flags.batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {flags.batch_size}; change --batch_size")
    if flags.seed < 0:
        raise UserError(f"seed must be 0 or more, got {flags.seed}; change --seed")
