"""Fixtures of the adapter's tests."""

from __future__ import annotations

import pytest

from ropo.ops import rotate
from ropo.ops.cpu.library import compiler


@pytest.fixture(params=["blocks", "planes"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How activations are rotated: by matrices that are built, as everywhere but on CPUs with kernels, or by planes."""
    if request.param == "blocks":
        monkeypatch.setattr(rotate, "by_planes", lambda part: False)
    elif compiler() is None:
        pytest.skip("no C compiler here, or not Linux")
    return request.param
