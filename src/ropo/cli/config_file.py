"""Options from a YAML file, checked by the very parser that checks the flags."""

from __future__ import annotations

__all__ = ()

import argparse
import json
from pathlib import Path
from typing import Any

from ropo.cli.parser import Parser
from ropo.core.errors import UserError
from ropo.core.names import did_you_mean
from ropo.core.yaml_files import read_mapping, value_of


def read_config(file: Path, parser: Parser) -> dict[str, Any]:
    """Read options from a YAML file.

    Args:
        file: A mapping from option names to values; `null` is passed on as None.
        parser: The parser of the command's flags, none of which has a default.

    Returns:
        The options by name, with the types that the flags give them.

    Raises:
        UserError: With file and line, if the file is no YAML mapping, or holds an unknown name or a wrong value.
    """
    options: dict[str, Any] = {}
    # Reversed, so that of --x and --no_x, which share a name, --x stays.
    actions = [action for action in reversed(parser._actions) if action.option_strings]
    valued = [action for action in actions if action.nargs != 0]  # not --no_x, which means nothing with a value
    known = {flag.lstrip("-").replace("-", "_"): action for action in valued for flag in action.option_strings}
    known |= {action.dest: action for action in actions}
    for given, value, line in _entries(file):
        where = f"{file}:{line}"
        name = known[given].dest if given in known else given
        if name in parser.foreign:
            raise UserError(f"{where}: {name} is not an option of {parser.prog}; {parser.foreign[name]}")
        if name not in known or name in ("config", "help"):
            raise UserError(f"{where}: unknown option {name!r}{did_you_mean(name, known)}")
        if name in options:
            raise UserError(f"{where}: {name} is given twice; remove one of the two")
        if value is None or isinstance(value, parser.structures.get(name, ())):
            options[name] = value
            continue
        try:
            options |= vars(parser.parse_args(_as_flags(known[name], value)))
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
    return options


def _entries(file: Path) -> list[tuple[str, Any, int]]:
    """Return the names, values and line numbers of a YAML mapping."""
    node = read_mapping("config", file)
    return [
        (str(key.value).replace("-", "_"), value_of(file, value), key.start_mark.line + 1)
        for key, value in (node.value if node else ())
    ]


def _as_flags(action: argparse.Action, value: Any) -> list[str]:
    flag = action.option_strings[0]
    if isinstance(value, list):
        return [flag, *map(_as_text, value)]
    if value is False and "no" in (action.choices or ()):  # what `no` without quotes is, to YAML 1.1
        value = "no"
    return [f"{flag}={_as_text(value)}"]


def _as_text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(value)
