"""How numbers and untrusted texts are written on the page."""

from __future__ import annotations

__all__ = ()

import json
import re
import shlex
from collections.abc import Sequence
from html import escape
from typing import Any

# Characters that a reader cannot see and that change what the others look like: they are shown by their names.
_ORDERING = re.compile("[\u202a-\u202e\u2066-\u2069]")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_UNWRITABLE = re.compile("[\ud800-\udfff\ufffe\uffff\x80-\x9f]")
_ENDS_SCRIPTS = re.compile("[<>&\u2028\u2029]")


def visible(text: str) -> str:
    """Return a text with what is invisible made visible; line breaks and tabs stay.

    Controls become their pictures (NUL is ␀), marks that turn the order of letters round become [U+202E], and what no
    UTF-8 file can hold becomes U+FFFD. Escaping for HTML is the template's work.
    """
    text = text.replace("\r\n", "\n")
    text = _CONTROLS.sub(lambda found: chr(0x2421 if found[0] == "\x7f" else 0x2400 + ord(found[0])), text)
    text = _ORDERING.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)
    return _UNWRITABLE.sub("\ufffd", text)


def label(text: str) -> str:
    """Return a text for plotly, which takes tags in titles and names for markup."""
    return escape(visible(text), quote=False)


def number(value: float | None) -> str:
    """Write a number with three significant digits, a whole one with all; an en dash for none."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if not value:
        return "0"
    size = abs(value)
    text = (
        f"{value:,.0f}"
        if 1000 <= size < 1e7
        else f"{value:#.3g}".rstrip(".")
        if 1e-3 <= size < 1000
        else f"{value:.2e}"
    )
    return re.sub(r"e([+-])0*(\d)", lambda found: f"e{found[1].replace('+', '')}{found[2]}", text).replace("-", "−")


def setting(value: float) -> str:
    """Write a number that somebody chose, as short as it is."""
    return f"{value:g}".replace("-", "−")


def seed_words(seed: int | None) -> str:
    """Name the seed of a run, or the mean over all."""
    return "mean of the seeds" if seed is None else f"seed {seed}"


def command_line(command: Sequence[str]) -> str:
    """Return a command as a user types it."""
    return shlex.join(["ropo", *command])


def embedded_json(value: Any) -> str:
    """Return JSON that can stand within a script element: no character of it ends the element or begins a comment.

    Raises:
        ValueError: If a number is not finite.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return _ENDS_SCRIPTS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
