"""Do without kernels for a while: the same rotations and stretches in plain PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from ropo.ops import blocks, plain, stretching


@contextmanager
def plain_pytorch() -> Iterator[None]:
    """Let rotations and stretches choose plain PyTorch, whatever kernels there are."""
    with (
        patch.object(blocks, "products_for", lambda x, packed: plain),
        patch.object(stretching, "stretching_for", lambda y, scale: plain),
    ):
        yield
