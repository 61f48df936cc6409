"""Say which optional library is missing, and how to get it."""

from __future__ import annotations

__all__ = ()

from collections.abc import Iterator
from contextlib import contextmanager

from ropo.core.errors import UserError


@contextmanager
def libraries_of(extra: str, what: str) -> Iterator[None]:
    """Turn the absence of a library that an extra of ropo installs into advice.

    Args:
        extra: The extra, such as `evaluation`.
        what: What needs the library, as the message calls it.

    Raises:
        UserError: Instead of the `ModuleNotFoundError` of any library but ours.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("ropo"):
            raise
        advice = f"pip install 'ropo[{extra}]'"
        raise UserError(f"{what}: needs the library {error.name}, which is not installed; {advice}") from error
