"""Where the files of a recipe lie: beside it, in an installed package, or somewhere else."""

from __future__ import annotations

__all__ = ()

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ropo.core.errors import UserError

_PACKAGE = "package:"


def resolve(name: str, folder: Path) -> str:
    """Return the path of a file that a recipe names, as it is typed in the current folder.

    Args:
        name: A path from the recipe's folder, `package:NAME/FILE`, or anything else, such as a hub id.
        folder: The recipe's folder.

    Returns:
        The path, relative to the current folder; what is no file or folder is returned as it is.

    Raises:
        UserError: If a package is not installed.
    """
    if name.startswith(_PACKAGE):
        package, _, file = name.removeprefix(_PACKAGE).partition("/")
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise UserError(f"{name}: the package {package!r} is not installed; install it, or name another model")
        return typed(Path(spec.origin).parent / file)
    return typed(folder / name) if name and (folder / name).exists() else name


def resolve_all(options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return options with every text, or text in a list, resolved."""

    def one(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [one(each) for each in value]
        return resolve(value, folder) if isinstance(value, str) else value

    return {name: one(value) for name, value in options.items()}


def typed(path: Path) -> str:
    """Return a path relative to the current folder, as a user there would type it."""
    return os.path.relpath(path)


def without_folders(value: Any) -> Any:
    """Return JSON with every absolute path of this machine made relative to the current folder.

    A text is one where something is there, or where it leads below the current folder: a run's own folder had another
    name while it was unfinished.
    """
    if isinstance(value, dict):
        return {name: without_folders(each) for name, each in value.items()}
    if isinstance(value, list):
        return [without_folders(each) for each in value]
    if not isinstance(value, str) or not value.startswith("/"):
        return value
    path = Path(value)
    return typed(path) if path.is_relative_to(Path.cwd()) or path.exists() else value
