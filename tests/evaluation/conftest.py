"""Models for the suites to compare."""

from __future__ import annotations

import pytest

from tests.tiny.sampled import save_adapter, save_tiny


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, str]:
    """Return a tiny model and an adapter on it, by name."""
    folder = tmp_path_factory.mktemp("models")
    base = save_tiny(folder / "base")
    return {"base": base, "tuned": save_adapter(base, folder / "tuned")}
