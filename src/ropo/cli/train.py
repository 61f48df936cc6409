"""`ropo train`: preference-tune a model on pairs."""

from __future__ import annotations

__all__ = ()

import argparse

from ropo.cli.parser import Parser

HELP = "train a model on preference pairs"


def add_arguments(parser: Parser) -> None:
    """Declare the flags."""
    from ropo.cli.train_options import add_train_options

    add_train_options(parser)


def run(arguments: argparse.Namespace) -> None:
    """Train, and leave a finished output folder or none."""
    import logging

    from rich.console import Console

    from ropo.cli.quiet import quiet_libraries
    from ropo.cli.train_options import read_train_options
    from ropo.cli.train_report import report
    from ropo.runs.plan import print_plan
    from ropo.runs.train import train
    from ropo.training.distributed.processes import rank

    quiet_libraries()
    if rank():
        logging.getLogger("ropo").setLevel(logging.ERROR)  # the first process says the same
    options = read_train_options(arguments)
    console = Console(highlight=False, soft_wrap=True, quiet=rank() > 0)
    if options.plan:
        print_plan(options, console)
    elif record := train(options, console):
        report(options.output, record, console)
