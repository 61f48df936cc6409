"""`ropo env`: what a bug report or a record of a result needs to say about the machine."""

from __future__ import annotations

__all__ = ()

import argparse
import json
import sys
from typing import Any

from ropo.cli.parser import Parser

HELP = "show versions, devices and memory"


def add_arguments(parser: Parser) -> None:
    """Declare the flags."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> None:
    """Print the environment, and warn of versions that ropo is not tested with."""
    from ropo.environment import describe_environment, untested_lines

    environment = describe_environment()
    if arguments.json:
        print(json.dumps(environment, indent=2))
    else:
        print("\n".join(_as_lines(environment)))
    for line in untested_lines():
        print(f"warning: {line}", file=sys.stderr)


def _as_lines(environment: dict[str, Any]) -> list[str]:
    """Write the environment as one line a fact."""
    facts = {**environment["versions"]}
    facts["torch build"] = environment["torch_build"]
    facts["devices"] = ", ".join(environment["devices"])
    facts["kernels"] = ", ".join(environment["kernels"]) or "none: plain PyTorch"
    facts["cores"] = environment["cores"]
    facts["memory"] = f"{environment['memory_gb']} GB"
    facts["platform"] = environment["platform"]
    cache = environment["cache"]
    facts["cache"] = f"{cache['folder']} ({cache['bytes'] / 1e6:,.1f} MB)"
    if environment["git_commit"]:
        facts["commit"] = environment["git_commit"]
    return [f"{name:<14}{fact}" for name, fact in facts.items()]
