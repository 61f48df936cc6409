"""How strongly an adapter acts: `DIR@0.5` names the adapter in DIR turned half way, whatever its method allows."""

from __future__ import annotations

# Nothing here imports PEFT, at the end of whose import the adapter is registered, which takes its checks from here.

__all__ = ["check_strength", "check_whole", "split_strength", "with_strength"]

import math
from contextlib import suppress
from numbers import Real
from pathlib import Path
from typing import Any

from ropo.core.errors import UserError

_STRONGEST = 2.0
ADAPTER_CONFIG = "adapter_config.json"


def check_strength(value: Any) -> float:
    """Return a strength as a number.

    Args:
        value: A number, or a text that is one.

    Raises:
        UserError: If it is none, or not within 0 .. 2.
    """
    number = math.nan
    if isinstance(value, str) or (isinstance(value, Real) and not isinstance(value, bool)):
        with suppress(ValueError):
            number = float(value)
    if not 0 <= number <= _STRONGEST:
        raise UserError(
            f"strength: must be a number from 0 (the base model) to {_STRONGEST:g}, got {value!r}; 1 is the adapter as "
            "it was trained"
        )
    return number


def split_strength(source: str) -> tuple[str, float | None]:
    """Read `DIR@0.5`; the one place that does.

    Args:
        source: Whatever names a model. A file or folder of just this name goes first, `@` and all.

    Returns:
        The folder, and the strength that was asked for; `source` itself and None where none was.

    Raises:
        UserError: If what stands before the `@` is there but no adapter, or what stands behind it no strength.
    """
    folder, at, strength = source.rpartition("@")
    is_path = "/" in strength  # a folder whose name has an @, and what is in it
    if not at or not folder or is_path or Path(source).exists() or not Path(folder).exists():
        return source, None
    if not (Path(folder) / ADAPTER_CONFIG).is_file():
        raise UserError(
            f"model {source}: {folder} is no PEFT adapter, and only an adapter has a strength; leave @{strength} out"
        )
    try:
        return folder, check_strength(strength)
    except UserError as error:
        raise UserError(f"adapter {source}: {error}") from error


def with_strength(source: str, strength: Any) -> str:
    """Name an adapter at a strength, so that `split_strength` reads it.

    The slash keeps it from being the name of a folder beside the adapter, such as one that it was merged into.

    Raises:
        UserError: If `source` names a strength already, or `strength` is none.
    """
    if split_strength(source)[1] is not None:
        raise UserError(f"model {source}: names a strength already, and --strength another; give one of them")
    return f"{source.rstrip('/')}/@{check_strength(strength)!r}"


def check_whole(config: Any) -> None:
    """Refuse an adapter that holds more than a change which can be scaled.

    Raises:
        UserError: Naming what it holds.
    """
    for name in ("modules_to_save", "trainable_token_indices"):
        if getattr(config, name, None):
            raise UserError(
                f"strength: {name} were trained in full and would act at any strength; only adapters without them "
                "have one"
            )
    if getattr(config, "bias", "none") != "none":
        raise UserError(
            f"strength: bias={config.bias!r} trained biases in full, which would act at any strength; only adapters "
            "without trained biases have one"
        )
