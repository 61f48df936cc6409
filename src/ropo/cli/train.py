"""`ropo train`: preference-tune a model on pairs."""

from __future__ import annotations

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

    from ropo.cli.processes import rank
    from ropo.cli.quiet import quiet_libraries
    from ropo.cli.train_job import print_plan, train
    from ropo.cli.train_options import read_train_options

    quiet_libraries()
    if rank():
        logging.getLogger("ropo").setLevel(logging.ERROR)  # the first process says the same
    options = read_train_options(arguments)
    if options.plan:
        print_plan(options)
    else:
        train(options)
