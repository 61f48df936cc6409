"""Settings: typed, checked, and made from the flags of the same names."""

from __future__ import annotations

__all__ = ["Settings", "settings_from"]

import argparse
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ropo.core.errors import UserError


class Settings(BaseModel):
    """The base of the settings of suites and judges; a field's rules stand in its type."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def shown(self) -> dict[str, Any]:
        """Return the settings as a result shows them: files by name, without the folders of this machine."""
        return {name: value.name if isinstance(value, Path) else value for name, value in self}


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
