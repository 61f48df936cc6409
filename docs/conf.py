"""The documentation site: `make docs` builds it into site/, with every warning an error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from ropo.cli.evaluate import add_common_arguments
from ropo.cli.main import available_commands
from ropo.cli.parser import Parser
from ropo.evaluation.suites import SUITES, load_suite

project = "ropo"
html_title = "ropo"
html_theme = "furo"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_heading_anchors = 4  # links of the form page.md#heading
autodoc_typehints = "none"  # signatures show shapes as they are written
autodoc_member_order = "bysource"
exclude_patterns = ["log/*"]  # diaries, read in the repository

COMMANDS = Path(__file__).parent / "cli.md"


def command_line() -> Iterator[str]:
    """Yield the help of every command as Markdown."""
    os.environ["COLUMNS"] = "100"  # argparse's lines must not depend on the terminal
    yield "# Command line"
    yield "What `ropo COMMAND --help` prints. `ropo train --help_all` has the trainer's other options."
    for name in available_commands():
        command: Any = import_module(f"ropo.cli.{name}")
        parser = Parser(prog=f"ropo {name}", description=command.HELP)
        command.add_arguments(parser)
        yield f"## ropo {name}"
        yield f"```text\n{parser.format_help().rstrip()}\n```"
        if name == "evaluate":
            yield from _suites()


def _suites() -> Iterator[str]:
    """Yield the help of every suite of `ropo evaluate`."""
    for name in SUITES:
        suite = load_suite(name)
        parser = Parser(prog=f"ropo evaluate {name}", description=suite.HELP)
        add_common_arguments(parser)
        suite.add_arguments(parser)
        yield f"### ropo evaluate {name}"
        yield f"```text\n{parser.format_help().rstrip()}\n```"


def setup(app: Sphinx) -> None:
    """Write the page of the command line from the options themselves, before the pages are read."""
    app.connect("builder-inited", lambda app: COMMANDS.write_text("\n\n".join(command_line()) + "\n", encoding="utf-8"))
