"""Models for the suites to compare."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.tiny.sampled import save_adapter, save_tiny


@pytest.fixture
def one_error(capsys) -> Callable[[], str]:
    """Return what reads the only line of error that `ropo evaluate` wrote, among whatever libraries say."""

    def read() -> str:
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ropo evaluate: error:")]
        return line

    return read


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, str]:
    """Return a tiny model and an adapter on it, by name."""
    folder = tmp_path_factory.mktemp("models")
    base = save_tiny(folder / "base")
    return {"base": base, "tuned": save_adapter(base, folder / "tuned")}
