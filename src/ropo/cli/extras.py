"""Say which optional library is missing, and how to get it."""

from __future__ import annotations

__all__ = ()

from collections.abc import Iterator
from contextlib import contextmanager

from ropo.core.errors import UserError


@contextmanager
def evaluation_libraries_for(what: str) -> Iterator[None]:
    """Turn the absence of a library of the `evaluation` extra into advice.

    Args:
        what: What needs it, as the message calls it.

    Raises:
        UserError: Instead of the `ModuleNotFoundError` of any library but ours.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("ropo"):
            raise
        advice = "pip install 'ropo[evaluation]'"
        raise UserError(f"{what}: needs the library {error.name}, which is not installed; {advice}") from error
