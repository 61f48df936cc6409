"""Read many contents of one file, and count how many were read and how many refused."""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ropo.core.errors import UserError

SECONDS = 60  # no reading of a few hundred bytes comes near, on a busy machine either
LONGEST_LINE = 2000

# The bounded run of every test suite, and the long one.
examples = pytest.mark.parametrize("count", [150, pytest.param(2000, marks=pytest.mark.slow)])


def fuzz(
    count: int,
    inputs: st.SearchStrategy[bytes],
    file: Path,
    read: Callable[[Path], Any],
    check: Callable[[Any, bytes], None] = lambda found, content: None,
    options: Collection[str] = (),
) -> Counter[str]:
    """Read `count` contents, the same ones every time.

    A refusal is one readable line that names the file, or begins with one of `options`; what is read, `check` compares
    with the content. Anything else that is raised, or a minute without an answer, fails. Both kinds must have been seen
    often.
    """
    seen: Counter[str] = Counter()

    @settings(
        max_examples=count, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(inputs)
    def one(content: bytes) -> None:
        file.write_bytes(content)
        with time_limit():
            try:
                found = read(file)
            except UserError as error:
                seen["refused"] += 1
                line = " ".join(str(error).split())
            else:
                seen["read"] += 1
                check(found, content)
                return
        assert file.name in line or re.split("[: ]", line.removeprefix("--"))[0] in options, line
        assert len(line) < LONGEST_LINE
        assert {path.name for path in file.parent.iterdir()} == {file.name}

    one()
    assert seen.total() >= count * 0.9  # hypothesis stops early where a strategy has no more to give
    assert min(seen["read"], seen["refused"]) > count // 50, seen
    return seen


@contextmanager
def time_limit() -> Iterator[None]:
    """Raise where a reading takes longer than any could."""

    def fail(*_: Any) -> None:
        raise AssertionError(f"still reading after {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
