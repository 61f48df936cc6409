"""Settings: each declared once, as a typed and checked field that is also a flag."""

from __future__ import annotations

__all__ = ["Settings", "add_flags", "settings_from"]

import argparse
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from ropo.core.errors import UserError


class Settings(BaseModel):
    """The base of all settings, of suites, judges and recipes; a field's rules stand in its type."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def shown(self) -> dict[str, Any]:
        """Return the settings as a result shows them: files by name, without the folders of this machine."""
        return {name: value.name if isinstance(value, Path) else value for name, value in self}


def add_flags(
    parser: argparse._ActionsContainer,
    settings: type[Settings],
    but: Collection[str] = (),
    said: Mapping[str, str] | None = None,
) -> None:
    """Declare a flag for each field of settings: its help is the field's description and, in brackets, its default.

    `jsonargparse` or `pydantic-settings` would declare flags from fields too. These few lines do it without a
    dependency, and keep `--help` free of anything but what a user needs.

    Args:
        parser: A parser or a group of one.
        settings: Whose fields; each is of one plain type, or None.
        but: Fields that are no flags, or that the caller declares.
        said: What stands in the brackets instead of a default, by field.
    """
    for name, field in settings.model_fields.items():
        if name in but:
            continue
        kind = _type_of(field.annotation)
        if kind is bool:  # a bare flag, with a `--no-` beside it where what is not given is found out later
            action = "store_true" if field.default is False else argparse.BooleanOptionalAction
            parser.add_argument(f"--{name}", action=action, default=field.default, help=field.description)
            continue
        default = None if field.is_required() else field.default
        shown = (said or {}).get(name, "" if default is None else "%(default)s")
        parser.add_argument(
            f"--{name}",
            type=kind,
            required=field.is_required(),
            default=default,
            metavar=name.rpartition("_")[2].upper() if kind is str else "FILE" if kind is Path else "N",
            help=f"{field.description} ({shown})" if shown else field.description,
        )


_AnySettings = TypeVar("_AnySettings", bound=Settings)


def settings_from(kind: type[_AnySettings], arguments: argparse.Namespace) -> _AnySettings:
    """Make settings from the flags that are called as their fields.

    Raises:
        UserError: If a value breaks its field's rule.
    """
    try:
        return kind(**{name: getattr(arguments, name) for name in kind.model_fields})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        rule = first["msg"][0].lower() + first["msg"][1:]
        raise UserError(f"{field}: {rule}, got {first['input']}; change --{field}") from error


def _type_of(annotation: Any) -> type:
    """Return the plain type in an annotation such as `Annotated[int, ...] | None`, or of a `Literal`'s values."""
    while not isinstance(annotation, type):
        parts = get_args(annotation)
        annotation = parts[0] if parts else type(annotation)
    return annotation
