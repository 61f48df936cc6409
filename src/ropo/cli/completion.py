"""`ropo completion`: a script with which a shell completes commands, flags and choices; made by shtab."""

from __future__ import annotations

__all__ = ()

import argparse
from importlib import import_module

from ropo.cli.evaluate import add_common_arguments
from ropo.cli.parser import Parser
from ropo.evaluation.suites import SUITES, load_suite

SHELLS = ("bash", "zsh", "tcsh")
HELP = "print a script that lets a shell complete commands and flags"


def add_arguments(parser: Parser) -> None:
    """Declare the flags."""
    parser.epilog = "bash: ropo completion bash > ~/.local/share/bash-completion/completions/ropo"
    parser.add_argument("shell", choices=SHELLS, help="whose script")


def run(arguments: argparse.Namespace) -> None:
    """Print the script."""
    import shtab

    from ropo.cli.main import available_commands

    whole = Parser(prog="ropo")
    commands = whole.add_subparsers(parser_class=Parser)
    for name in available_commands():
        module = import_module(f"ropo.cli.{name}")
        parser = commands.add_parser(name, help=module.HELP)
        if name == "evaluate":
            _add_suites(parser)
        else:
            module.add_arguments(parser)
    print(shtab.complete(whole, shell=arguments.shell))


def _add_suites(parser: Parser) -> None:
    """Declare every suite with its flags, which `ropo evaluate` itself does once it knows which."""
    suites = parser.add_subparsers(parser_class=Parser)
    for name in SUITES:
        suite = load_suite(name)
        own = suites.add_parser(name, help=suite.HELP)
        add_common_arguments(own)
        suite.add_arguments(own)
