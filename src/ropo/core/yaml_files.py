"""YAML that came from outside: plain data only, and every fault told with its file and line."""

from __future__ import annotations

__all__ = ["read_mapping", "value_of"]

from pathlib import Path
from typing import Any

import yaml

from ropo.core.errors import UserError

_MOST_NODES = 100_000  # what aliases may multiply a file to; beyond, a few lines could fill the memory
_DEEPEST = 64


def read_mapping(what: str, path: Path) -> yaml.MappingNode | None:
    """Read the mapping that a YAML file holds.

    Args:
        what: What the file is, for messages.
        path: The file, UTF-8.

    Returns:
        The mapping as a node, whose keys and values know their lines; None for an empty file.

    Raises:
        UserError: If it cannot be read, is no YAML, no mapping, or too deep or too large with its aliases in place.
    """
    try:
        node = yaml.compose(path.read_text(encoding="utf-8-sig"), yaml.SafeLoader)
    except OSError as error:
        raise UserError(f"{what} {path}: cannot be read ({error.strerror}); check the path") from error
    except yaml.MarkedYAMLError as error:
        line = 1 if error.problem_mark is None else error.problem_mark.line + 1
        raise UserError(f"{path}:{line}: is not valid YAML ({error.problem}); mend the line") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{what} {path}: is not valid YAML ({error}); mend it") from error
    except RecursionError as error:
        raise UserError(f"{what} {path}: is nested too deeply; mend it") from error
    if node is None:
        return None
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path}:{_line(node)}: must be a mapping of names to values, such as `beta: 0.1`")
    _check_size(f"{what} {path}", node)
    return node


def value_of(path: Path, node: yaml.Node) -> Any:
    """Return the plain data of a node of `read_mapping`.

    Raises:
        UserError: If it asks for anything but plain data, or a date or number in it does not exist.
    """
    try:
        return yaml.SafeLoader("").construct_object(node, deep=True)
    except yaml.MarkedYAMLError as error:
        line = _line(node) if error.problem_mark is None else error.problem_mark.line + 1
        raise UserError(f"{path}:{line}: {error.problem}; write plain text, numbers, lists and mappings") from error
    except (ValueError, OverflowError, LookupError, AttributeError) as error:  # `!!bool maybe`, `!!timestamp z`
        raise UserError(f"{path}:{_line(node)}: holds a value that does not exist ({error}); mend it") from error


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _check_size(what: str, node: yaml.Node) -> None:
    """Count the nodes level by level with aliases in place; an alias within its own anchor never ends."""
    count, level = 0, [node]
    for _ in range(_DEEPEST):
        count += len(level)
        level = [child for each in level for child in _children(each)]
        if not level:
            return
        if count + len(level) > _MOST_NODES:
            raise UserError(f"{what}: its aliases stand for more than {_MOST_NODES} values; write fewer")
    raise UserError(f"{what}: is nested more than {_DEEPEST} levels deep; mend it")


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []
